"""The data engine's first half (RAM, section 3.3): tags that captions name, and tags that a model adds."""

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
"""Photos that are tagged together, and rows that are held."""


def parse(rows: Iterable[Row], labeler: Labeler) -> Iterator[Row]:
    """The rows with the tags that their captions name, and all that is broader; origin "text"."""
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
    """The rows with the tags that a model sees and nobody said; origin "model".

    Args:
        rows: a stream; 64 are held at a time.
        root: the folder that their photos are relative to.
        tagger: the model.
        probability: from which a tag is added; by default each tag's own threshold.
        on_error: takes the message of a photo that cannot be read; its row stays as it is.
    """
    for row, error in generate_or_say(rows, root, tagger, probability=probability):
        if error and on_error:
            on_error(f"{row.image}: {why(row, root, error)}")
        yield row


def generate_or_say(
    rows: Iterable[Row],
    root: str,
    tagger: Tagger,
    *,
    probability: float | None = None,
    workers: int | None = None,
) -> Iterator[tuple[Row, str | None]]:
    """As `generate`, each row with why its photo cannot be read; `workers` as for `Tagger.tag_many`."""
    for block in batches(rows, BLOCK):
        photos = [read_photo(row, root) for row in block]
        sources = [photo.source for photo in photos]
        tagged = tagger.tag_many(sources, threshold=probability, workers=workers)
        for row, photo, tags in zip(block, photos, tagged, strict=True):
            failed = tags.error.message if tags.error else None
            yield row.adding(tags.names, "model"), photo.error or failed


@dataclass(frozen=True)
class Source:
    """What a tagger takes for a photo: its path, or its bytes; empty bytes where `error` says why."""

    source: str | bytes
    error: str | None = None


def read_photo(row: Row, root: str) -> Source:
    """Path or bytes of a row's photo; never fails."""
    try:
        return Source(photo_source(root, row.image))
    except AnytagError as error:
        return Source(b"", str(error))


def why(row: Row, root: str, error: str) -> str:
    """Why a row's photo cannot be read, without its name."""
    return error.removeprefix(f"{join(root, row.image)}: ")


def names_known(row: Row, labeler: Labeler, origins: Sequence[str]) -> list[str]:
    """The row's tags of these origins that the vocabulary knows."""
    return [
        name for name, origin in row.origins_by_tag if origin in origins and labeler.label(name) is not None
    ]
