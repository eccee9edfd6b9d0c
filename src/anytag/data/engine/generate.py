"""The generation stage of the data engine (RAM, section 3.3): tags from captions, and tags from a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from anytag.batching import batches
from anytag.data.io import join, photo_source
from anytag.data.labels import Labeler
from anytag.data.rows import OnError, Row
from anytag.errors import AnytagError
from anytag.tagger import Tagger

BLOCK = 64
"""Number of photos that are tagged together, and of rows in memory."""


def parse(rows: Iterable[Row], labeler: Labeler) -> Iterator[Row]:
    """Add the tags in captions and all broader ones; origin "text"."""
    vocabulary = labeler.vocabulary
    for row in rows:
        columns = sorted(labeler.captions(row.captions))
        yield row.adding((vocabulary[column].name for column in columns), "text")


def generate(
    rows: Iterable[Row],
    root: str,
    tagger: Tagger,
    *,
    probability: float | None = None,
    on_error: OnError | None = None,
) -> Iterator[Row]:
    """Add the tags that a model predicts and that are not in the row; origin "model".

    Args:
        rows: a stream; 64 are in memory at a time.
        root: folder that the photos' paths are relative to.
        tagger: the model.
        probability: threshold; by default each tag's own.
        on_error: called with the message for each photo that cannot be read; its row is unchanged.
    """
    for row, error in generate_with_errors(rows, root, tagger, probability=probability):
        if error and on_error:
            on_error(f"{row.image}: {why(row, root, error)}")
        yield row


def generate_with_errors(
    rows: Iterable[Row],
    root: str,
    tagger: Tagger,
    *,
    probability: float | None = None,
    workers: int | None = None,
) -> Iterator[tuple[Row, str | None]]:
    """As `generate`, but yields each row with its photo's error; `workers` as for `Tagger.tag_many`."""
    for block in batches(rows, BLOCK):
        photos = [read_photo(row, root) for row in block]
        sources = [photo.source for photo in photos]
        tagged = tagger.tag_many(sources, threshold=probability, workers=workers)
        for row, photo, tags in zip(block, photos, tagged, strict=True):
            failed = tags.error.message if tags.error else None
            yield row.adding(tags.names, "model"), photo.error or failed


@dataclass(frozen=True)
class Source:
    """The input of a tagger for a photo: its path, or its bytes; empty bytes if there is an `error`."""

    source: str | bytes
    error: str | None = None


def read_photo(row: Row, root: str) -> Source:
    """Path or bytes of a row's photo; never raises."""
    try:
        return Source(photo_source(root, row.image))
    except AnytagError as error:
        return Source(b"", str(error))


def why(row: Row, root: str, error: str) -> str:
    """The error of a row's photo, without its path."""
    return error.removeprefix(f"{join(root, row.image)}: ")


def known_names(row: Row, labeler: Labeler, origins: Sequence[str]) -> list[str]:
    """The row's tags of these origins that are in the vocabulary."""
    return [
        name for name, origin in row.origins_by_tag if origin in origins and labeler.label(name) is not None
    ]
