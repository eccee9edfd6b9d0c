"""Exchange keywords between a library and its files: read the user's, write the library's tags."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from anytag.batching import batches
from anytag.library import words
from anytag.library.library import Library, embedded_vocabulary, tag_key
from anytag.library.photo import Photo
from anytag.metadata import Change, Keyword, Keywords, SidecarName, read_keywords, write_keywords
from anytag.metadata.write import tried
from anytag.results import Failure, TagScore, once_by_name
from anytag.vocabulary import Vocabulary

_BATCH = 100  # photos per transaction


def read_in(library: Library, photos: Iterable[Photo]) -> Iterator[Keywords]:
    """Read the user's keywords from photos and their sidecars into a library.

    A tag by anytag that the user removed from a file becomes rejected in the library, unless it is accepted
    or added there. Keywords of files that belong to a photo, such as its RAW, are keywords of the photo.

    Raises:
        MissingToolError: exiftool is not installed.
    """
    vocabulary = embedded_vocabulary()
    for batch in batches(photos, _BATCH):
        found = _read(library, batch)
        good = [(photo, one) for photo, one in zip(batch, found, strict=True) if one.error is None]
        with library.database.transaction() as connection:
            connection.executemany("DELETE FROM keywords WHERE photo = ?", [(photo.id,) for photo, _ in good])
            connection.executemany(
                "INSERT OR IGNORE INTO keywords (photo, path, source) VALUES (?, ?, 'file')",
                [(photo.id, path(keyword)) for photo, one in good for keyword in one.keywords],
            )
            words.rewrite(connection, [photo.id for photo, _ in good])
        for photo, one in good:
            decided = {tag_key(vocabulary, name) for name in (*photo.accepted, *photo.added)}
            known = {tag_key(vocabulary, name) for name in photo.tags} - decided
            library.reject(photo.id, *(word for word in one.rejected if tag_key(vocabulary, word) in known))
        yield from found


def _read(library: Library, photos: Sequence[Photo]) -> list[Keywords]:
    """The keywords of photos, with those of the files that belong to them."""
    files = {photo.id: [photo.path] for photo in photos}
    for photo, path_ in library.paired(files):
        files[photo].append(path_)
    return [_joined(list(read_keywords(names))) for names in files.values()]


def _joined(found: Sequence[Keywords]) -> Keywords:
    """The keywords of the files of one photo, under the name of the first."""
    error = next((one.error for one in found if one.error), None)
    keywords = tuple(dict.fromkeys(keyword for one in found for keyword in one.keywords))
    rejected = tuple(dict.fromkeys(word for one in found for word in one.rejected))
    return replace(found[0], keywords=keywords, rejected=rejected, error=error)


def path(keyword: Keyword) -> str:
    """A keyword in the database's format: "animal|dog"."""
    return "|".join(part.replace("|", "/") for part in keyword)


def tags_of(photo: Photo, vocabulary: Vocabulary) -> list[TagScore]:
    """The tags of a photo without duplicates: the user's first, with a score of 1."""
    sure = (_sure(name, vocabulary) for name in (*photo.added, *photo.accepted))
    return list(once_by_name((*sure, *photo.scores)))


def lineage(tag: TagScore, vocabulary: Vocabulary) -> Keyword:
    """A tag as a hierarchical keyword, broadest first; flat if the vocabulary does not know it."""
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
    """Write the tags of a photo into its sidecar; errors are in the change.

    Args:
        photo: of the library; it is an error if its state is not "done".
        vocabulary: for hierarchies, and for names in another language.
        keywords: to write instead of the photo's tags.
        embed, caption, overwrite_caption, sidecar_name, touch, dry_run: as for `write_keywords`.

    Raises:
        MissingToolError: exiftool is not installed.
    """
    if photo.state != "done":
        message = f"{photo.path}: is {photo.state}, so it has no tags to write: run anytag library sync"
        return Change(photo.path, error=Failure("LibraryError", message))
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
            rejected=spellings(photo.rejected, vocabulary),
            accepted=spellings((*photo.accepted, *photo.added), vocabulary),
            sidecar_name=sidecar_name,
            touch=touch,
            dry_run=dry_run,
        ),
    )


def _sure(name: str, vocabulary: Vocabulary) -> TagScore:
    tag = vocabulary.find(name)
    return TagScore(tag.id, tag.name, 1.0, "vocabulary") if tag else TagScore(name, name, 1.0, "custom")


def spellings(names: Sequence[str], vocabulary: Vocabulary) -> tuple[str, ...]:
    """Names of tags as the user and as the vocabulary spell them."""
    known = (vocabulary.find(name) for name in names)
    return (*names, *(tag.name for tag in known if tag))
