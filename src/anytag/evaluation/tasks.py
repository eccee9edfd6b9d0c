"""What is measured: photos, what is asked of them, and what people say is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from anytag._typing import Bools
from anytag.data.formats import read
from anytag.data.labels import Labeler, Names, label_matrix
from anytag.data.rows import Row, by_photo
from anytag.errors import AnytagError
from anytag.queries.requests import CustomTag
from anytag.vocabulary import Vocabulary

Kind = Literal["tagging", "open-set", "caption", "retrieval"]


@dataclass(frozen=True, slots=True)
class Published:
    """A figure that somebody else measured on the same benchmark.

    Attributes:
        who: the model.
        figure: its name, as in our tables.
        value: in percent.
        source: where it stands.
        trained_on: what the model has learned from.
    """

    who: str
    figure: str
    value: float
    source: str
    trained_on: str = ""


@dataclass(frozen=True, eq=False)
class TagTask:
    """N photos that are asked for K tags.

    Attributes:
        name: as reports call it.
        photos: N paths.
        tags: K, names and descriptions; names may repeat.
        present: N×K.
        known: N×K, where presence or absence is known; None where everything is.
        ids: of the tags in a vocabulary, K, or None where tags are asked by name.
        published: figures of others.
        halves: what the mAP of tags with trained queries is called, and that of tags by their words.
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
        """Some of the photos, some of the tags; None keeps all."""
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
    """N photos with the captions that people wrote.

    Attributes:
        captions: one or more for each photo.
    """

    name: str
    photos: tuple[Path, ...]
    captions: tuple[tuple[str, ...], ...]
    published: tuple[Published, ...] = ()

    def part(self, *, photos: Sequence[int]) -> TextTask:
        """Some of the photos."""
        return replace(
            self,
            photos=tuple(self.photos[n] for n in photos),
            captions=tuple(self.captions[n] for n in photos),
        )


def rows_of(path: Path, *, split: str, source: str | None = None, limit: int | None = None) -> list[Row]:
    """Rows of one split, and of one source when it is named: one a photo, of at most `limit` photos.

    Args:
        path: rows.jsonl, or another format that `anytag data` reads; where it has no splits, all is this one.

    Raises:
        AnytagError: there are none; the message tells which there are.
    """
    rows = list(read(str(path), split=split))
    selected_rows = [row for row in rows if row.split == split and source in (None, row.source)]
    if not selected_rows:
        there = sorted({f"--split {row.split} --source {row.source}" for row in rows})
        option = f"--split {split}" + (f" --source {source}" if source else "")
        raise AnytagError(f"{path}: no row for {option}; there are: {', '.join(there) or 'no rows at all'}")
    return by_photo(selected_rows)[:limit]


def vocabulary_task(name: str, rows: Sequence[Row], *, root: Path, vocabulary: Vocabulary) -> TagTask:
    """A vocabulary's tags, present where captions or labels say so, broader tags included.

    Where a photo says what is absent and has no captions, nothing is known of tags that it names neither way.
    """
    labels = label_matrix(
        rows, Labeler(vocabulary), silence=lambda row: float(not row.absent or bool(row.captions))
    )
    return TagTask(
        name,
        tuple(root / row.image for row in rows),
        tuple(CustomTag(tag.name) for tag in vocabulary),
        labels.present,
        known=_unless_all(labels.weight > 0),
        ids=vocabulary.ids,
    )


def names_task(name: str, rows: Sequence[Row], *, root: Path) -> TagTask:
    """The names that labels use, asked as words: present where a label says so.

    Raises:
        AnytagError: no row has labels.
    """
    names = sorted({label for row in rows for label in (*row.tags, *row.absent)})
    if not names:
        raise AnytagError(
            f"{name}: no row has tags, so there is nothing to ask by name; "
            "choose a --source with tags, or --task tagging for captions"
        )
    labels = label_matrix(rows, Names(names), silence=lambda row: float(not row.absent))
    return TagTask(
        name,
        tuple(root / row.image for row in rows),
        tuple(map(CustomTag, names)),
        labels.present,
        known=_unless_all(labels.weight > 0),
    )


def _unless_all(known: Bools) -> Bools | None:
    return None if known.all() else known


def text_task(name: str, rows: Sequence[Row], *, root: Path) -> TextTask:
    """Photos that have captions.

    Raises:
        AnytagError: no row has any.
    """
    captioned = [row for row in rows if row.captions]
    if not captioned:
        raise AnytagError(f"{name}: no row has captions, which this task needs; try --task tagging")
    return TextTask(
        name, tuple(root / row.image for row in captioned), tuple(row.captions for row in captioned)
    )
