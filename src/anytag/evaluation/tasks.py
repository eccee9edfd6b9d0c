"""Evaluation tasks: photos, tags or captions, and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from anytag._typing import Bools
from anytag.data.formats import read
from anytag.data.io import local_paths
from anytag.data.labels import Labeler, Names, label_matrix
from anytag.data.rows import Row, by_photo
from anytag.errors import AnytagError
from anytag.queries.requests import CustomTag
from anytag.vocabulary import Vocabulary

Kind = Literal["tagging", "open-set", "caption", "retrieval"]


@dataclass(frozen=True, slots=True)
class Published:
    """A published figure on the same benchmark.

    Attributes:
        who: the model.
        figure: its name, as in our tables.
        value: in percent.
        source: citation.
        trained_on: training data of the model.
    """

    who: str
    figure: str
    value: float
    source: str
    trained_on: str = ""


@dataclass(frozen=True, eq=False)
class TagTask:
    """N photos and K tags to score.

    Attributes:
        name: for reports.
        photos: N paths.
        tags: K names and descriptions; names may repeat.
        present: labels N×K.
        known: N×K, whether the label is known; None if all are.
        ids: K ids of the tags in a vocabulary, or None if tags are matched by name.
        published: published figures.
        halves: names for the mAP of tags with trained queries, and of tags with queries from words.
    """

    name: str
    photos: tuple[Path, ...]
    tags: tuple[CustomTag, ...]
    present: Bools
    known: Bools | None = None
    ids: tuple[str, ...] | None = None
    published: tuple[Published, ...] = ()
    halves: tuple[str, str] = ("mAP of trained tags", "mAP of tags by their words")

    def part(self, *, photos: Sequence[int] | None = None, tags: Sequence[int] | None = None) -> TagTask:
        """Select photos and tags; None keeps all."""
        rows = np.arange(len(self.photos)) if photos is None else np.asarray(photos, dtype=np.intp)
        columns = np.arange(len(self.tags)) if tags is None else np.asarray(tags, dtype=np.intp)
        both = np.ix_(rows, columns)
        return replace(
            self,
            photos=tuple(self.photos[n] for n in rows),
            tags=tuple(self.tags[k] for k in columns),
            present=self.present[both],
            known=None if self.known is None else self.known[both],
            ids=None if self.ids is None else tuple(self.ids[k] for k in columns),
        )


@dataclass(frozen=True, eq=False)
class TextTask:
    """N photos with reference captions.

    Attributes:
        captions: one or more per photo.
    """

    name: str
    photos: tuple[Path, ...]
    captions: tuple[tuple[str, ...], ...]
    published: tuple[Published, ...] = ()

    def part(self, *, photos: Sequence[int]) -> TextTask:
        """Select photos."""
        return replace(
            self,
            photos=tuple(self.photos[n] for n in photos),
            captions=tuple(self.captions[n] for n in photos),
        )


def rows_of(path: Path, *, split: str, source: str | None = None, limit: int | None = None) -> list[Row]:
    """Read the rows of one split, and of one source if given, merged by photo, for at most `limit` photos.

    Args:
        path: rows.jsonl, or another format of `anytag data`; data without splits counts as this split.

    Raises:
        AnytagError: there are none; the message lists the available ones.
    """
    rows = list(read(str(path), split=split))
    selected_rows = [row for row in rows if row.split == split and source in (None, row.source)]
    if not selected_rows:
        available = sorted({f"--split {row.split} --source {row.source}" for row in rows})
        option = f"--split {split}" + (f" --source {source}" if source else "")
        raise AnytagError(
            f"{path}: no row for {option}; available: {', '.join(available) or 'no rows at all'}"
        )
    return by_photo(selected_rows)[:limit]


def vocabulary_task(name: str, rows: Sequence[Row], *, root: Path, vocabulary: Vocabulary) -> TagTask:
    """Make a task of a vocabulary's tags, with labels from captions and tags, broader tags included.

    If a photo has absent tags and no captions, labels of tags that it does not name are unknown.
    """
    labels = label_matrix(
        rows, Labeler(vocabulary), silence=lambda row: float(not row.absent or bool(row.captions))
    )
    return TagTask(
        name,
        tuple(local_paths(root, (row.image for row in rows))),
        tuple(CustomTag(tag.name) for tag in vocabulary),
        labels.present,
        known=_unless_all(labels.weight > 0),
        ids=vocabulary.ids,
    )


def names_task(name: str, rows: Sequence[Row], *, root: Path) -> TagTask:
    """Make a task of the names used as tags, scored from their words.

    Raises:
        AnytagError: no row has tags.
    """
    names = sorted({label for row in rows for label in (*row.tags, *row.absent)})
    if not names:
        raise AnytagError(
            f"{name}: no row has tags, so there are no names to evaluate; "
            "choose a --source with tags, or --task tagging for captions"
        )
    labels = label_matrix(rows, Names(names), silence=lambda row: float(not row.absent))
    return TagTask(
        name,
        tuple(local_paths(root, (row.image for row in rows))),
        tuple(map(CustomTag, names)),
        labels.present,
        known=_unless_all(labels.weight > 0),
    )


def _unless_all(known: Bools) -> Bools | None:
    return None if known.all() else known


def text_task(name: str, rows: Sequence[Row], *, root: Path) -> TextTask:
    """Make a task of the photos that have captions.

    Raises:
        AnytagError: no row has any.
    """
    captioned = [row for row in rows if row.captions]
    if not captioned:
        raise AnytagError(f"{name}: no row has captions, which this task needs; try --task tagging")
    return TextTask(
        name,
        tuple(local_paths(root, (row.image for row in captioned))),
        tuple(row.captions for row in captioned),
    )
