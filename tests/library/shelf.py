"""A library for tests whose photos are what a test says: files without pixels, rows, vectors."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anytag.library import words
from anytag.library.library import Library
from anytag.library.vectors import keep
from anytag.models.folder import ModelFolder
from anytag.models.registry import resolve
from anytag.reranking import weights_of
from anytag.vocabulary import Vocabulary

FOLDER = ModelFolder.open(resolve(None))
VOCABULARY = Vocabulary.read(FOLDER.file("vocabulary.jsonl"))
WIDTH = FOLDER.card.width
Floats = npt.NDArray[np.float32]


class Shelf:
    """Puts photos into a library, one at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.library = Library.open(path / "library.db")
        connection = self.library.database.connection
        connection.execute("INSERT INTO roots (path, shown) VALUES (?, ?)", (os.fsencode(path), str(path)))
        self.models = {
            weights: connection.execute(
                "INSERT INTO models (name, weights, vocabulary) VALUES ('mini', ?, '')", (weights,)
            ).lastrowid
            for weights in (weights_of(FOLDER.card), "another")
        }

    def add(
        self,
        name: str,
        vector: Floats | None = None,
        *,
        tags: Mapping[str, float] | None = None,
        keywords: Sequence[str] = (),
        taken: str | None = None,
        caption: str | None = None,
        weights: str | None = None,
        slot: int | None = None,
    ) -> int:
        """The id of a new photo; `tags` are names of the vocabulary, with scores."""
        file, weights = self.path / name, weights or weights_of(FOLDER.card)
        file.parent.mkdir(exist_ok=True, parents=True)
        file.touch()
        with self.library.database.transaction() as connection:
            (count,) = connection.execute("SELECT count(*) FROM photos").fetchone()
            slot = count if slot is None else slot
            if vector is not None:
                keep(self.library.database.path, weights, [slot], [np.asarray(vector, np.float32)])
            number = connection.execute(
                "INSERT INTO photos (root, path, name, size, mtime_ns, device, inode, state, model, taken, "
                "caption, slot) VALUES (1, ?, ?, 0, 0, 0, 0, 'done', ?, ?, ?, ?)",
                (
                    os.fsencode(file),
                    name,
                    self.models[weights],
                    taken,
                    caption,
                    slot if vector is not None else None,
                ),
            ).lastrowid
            assert number is not None
            for tag, score in (tags or {}).items():
                found = VOCABULARY.find(tag)
                assert found is not None
                connection.execute(
                    "INSERT INTO tags VALUES (?, ?, ?, ?)", (number, found.id, found.name, score)
                )
            for keyword in keywords:
                connection.execute("INSERT INTO keywords VALUES (?, ?, 'dc:subject')", (number, keyword))
            words.rewrite(connection, [number])
        return number
