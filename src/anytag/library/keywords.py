"""Keywords between a library and its files: the user's own are read in, the library's are what is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from anytag.batching import batches
from anytag.library import words
from anytag.library.library import Library
from anytag.library.photo import Photo
from anytag.metadata import Change, Keyword, Keywords, SidecarName, read_keywords, write_keywords
from anytag.metadata.write import tried
from anytag.results import Failure, TagScore, once_by_name
from anytag.vocabulary import Vocabulary

_BATCH = 100  # photos, which a kill may cost


def read_in(library: Library, photos: Iterable[Photo]) -> Iterator[Keywords]:
    """Reads the user's keywords of photos and their sidecars into a library, which finds photos by them.

    A word of anytag that the user took out of a file is rejected in the library, too.

    Raises:
        MissingToolError: exiftool is not installed.
    """
    for batch in batches(photos, _BATCH):
        found = list(read_keywords(photo.path for photo in batch))
        good = [(photo, one) for photo, one in zip(batch, found, strict=True) if one.error is None]
        with library.database.transaction() as connection:
            connection.executemany("DELETE FROM keywords WHERE photo = ?", [(photo.id,) for photo, _ in good])
            connection.executemany(
                "INSERT OR IGNORE INTO keywords (photo, path, source) VALUES (?, ?, 'file')",
                [(photo.id, path(keyword)) for photo, one in good for keyword in one.keywords],
            )
            words.rewrite(connection, [photo.id for photo, _ in good])
        for photo, one in good:
            known = {name.casefold() for name in photo.tags}
            library.reject(photo.id, *(word for word in one.rejected if word.casefold() in known))
        yield from found


def path(keyword: Keyword) -> str:
    """A keyword as the library's rows have it: "animal|dog"."""
    return "|".join(part.replace("|", "/") for part in keyword)


def tags_of(photo: Photo, vocabulary: Vocabulary) -> list[TagScore]:
    """What a library says of a photo, each name once, the user's decisions first, which are sure."""
    sure = (_sure(name, vocabulary) for name in (*photo.added, *photo.accepted))
    return list(once_by_name((*sure, *photo.scores)))


def lineage(tag: TagScore, vocabulary: Vocabulary) -> Keyword:
    """A tag as a keyword, what is broader first; one that the vocabulary does not know stands alone."""
    is_known = tag.source == "vocabulary" and tag.id in vocabulary
    return vocabulary.lineage(tag.id) if is_known else (tag.name,)


def write(
    photo: Photo,
    vocabulary: Vocabulary,
    keywords: Iterable[Keyword] | None = None,
    *,
    embed: bool = False,
    caption: str | None = None,
    overwrite_caption: bool = False,
    sidecar_name: SidecarName = "full",
    touch: bool = False,
    dry_run: bool = False,
) -> Change:
    """Writes what a library says of a photo into its sidecar; a failure is in the change.

    Args:
        photo: of the library; one that is not "done" is a failure.
        vocabulary: for what is broader, and for names in another language.
        keywords: instead of all that the library says.
        embed, caption, overwrite_caption, sidecar_name, touch, dry_run: as of `write_keywords`.

    Raises:
        MissingToolError: exiftool is not installed.
    """
    if photo.state != "done":
        why = f"{photo.path}: is {photo.state}, so nothing is known to be written: anytag library sync"
        return Change(photo.path, error=Failure("LibraryError", why))
    if keywords is None:
        keywords = [lineage(tag, vocabulary) for tag in tags_of(photo, vocabulary)]
    return tried(
        photo.path,
        lambda: write_keywords(
            photo.path,
            keywords,
            embed=embed,
            caption=caption,
            overwrite_caption=overwrite_caption,
            rejected=rejected(photo, vocabulary),
            sidecar_name=sidecar_name,
            touch=touch,
            dry_run=dry_run,
        ),
    )


def _sure(name: str, vocabulary: Vocabulary) -> TagScore:
    tag = vocabulary.find(name)
    return TagScore(tag.id, tag.name, 1.0, "vocabulary") if tag else TagScore(name, name, 1.0, "custom")


def rejected(photo: Photo, vocabulary: Vocabulary) -> tuple[str, ...]:
    """Words that may not be written for a photo, as the user said them and as the vocabulary does."""
    known = (vocabulary.find(name) for name in photo.rejected)
    return (*photo.rejected, *(tag.name for tag in known if tag))
