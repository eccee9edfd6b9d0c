"""A large model teaches a small one on photos that nobody labelled: what `anytag distill` does.

The teacher tags every photo once, with all its tags; its probabilities are the student's targets, soft as
they are, and its vocabulary is the student's. When the run goes on, they are read from OUT/beliefs.npy.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from anytag._io import atomic_write
from anytag.data.rows import Row
from anytag.errors import AnytagError
from anytag.images import SUFFIXES
from anytag.results import Tags
from anytag.tagger import Tagger
from anytag.torch.training.distributed import from_first
from anytag.torch.training.effects import parse_train
from anytag.torch.training.fit import Run, go, prepare_with
from anytag.torch.training.launch import check_launch, folder_of_run
from anytag.torch.training.photo_dataset import Photos
from anytag.torch.training.recipes import TrainRecipe, find
from anytag.torch.training.report import Progress, Reporter, counted
from anytag.vocabulary import Vocabulary

Halves = npt.NDArray[np.float16]
KEPT = 0.02
"""A belief below is none: most of a vocabulary, in most photos."""
HELD_OUT_PART = 20
"""Every so many-th photo only measures: does the student say what the teacher says?"""


class Teacher(Protocol):
    """What is asked of a teacher; `anytag.Tagger` is one."""

    @property
    def vocabulary(self) -> Vocabulary: ...

    def tag_many(self, images: Sequence[Path], *, threshold: float) -> Iterator[Tags]: ...


def photos_in(folder: Path) -> list[Path]:
    """All photos below a folder, sorted.

    Raises:
        AnytagError: there are none.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise AnytagError(f"{folder} holds no photos; expected files such as *.jpg")
    return found


def beliefs(teacher: Teacher, paths: Sequence[Path], file: Path, *, report: Reporter) -> Halves:
    """What the teacher believes of every photo, float16 N×K; NaN where a photo cannot be read.

    Kept in `file` with the key of what it was made of beside it; the key is written first.
    """
    key, kept = _key(teacher, paths), file.with_suffix(".key")
    if file.exists():
        if kept.exists() and kept.read_text(encoding="utf-8") == key:
            known: Halves = np.load(file)
            return known
        raise AnytagError(f"{file} is of other photos or another teacher; name another output folder")
    with atomic_write(kept) as draft:
        draft.write_text(key, encoding="utf-8")
    column = {key: number for number, key in enumerate(teacher.vocabulary.ids)}
    found = np.zeros((len(paths), len(column)), np.float16)
    for number, tags in enumerate(teacher.tag_many(paths, threshold=KEPT)):
        if tags.error:
            report.say(f"Left out: {tags.error.message}")
            found[number] = np.nan
        for tag in tags.tags:
            found[number, column[tag.id]] = tag.score
        report.progress(Progress("ask the teacher", number + 1, len(paths), unit="photos"))
    with atomic_write(file) as draft, draft.open("wb") as opened:
        np.save(opened, found)
    return found


def _key(teacher: Teacher, paths: Sequence[Path]) -> str:
    """One hash of the photos, by name, size and time, and of what the teacher's folder says of itself."""
    found = hashlib.sha256(repr((getattr(teacher, "card", None), teacher.vocabulary.ids)).encode())
    for path in paths:
        facts = path.stat()
        found.update(f"\0{path}\0{facts.st_size}\0{facts.st_mtime_ns}".encode(errors="surrogateescape"))
    return found.hexdigest()


class TaughtPhotos(Photos):
    """Photos with soft targets, the teacher's beliefs.

    Args:
        belief: float16 N×K of `rows`.
    """

    def __init__(
        self, rows: Sequence[Row], root: Path, vocabulary: Vocabulary, belief: npt.NDArray[np.float16]
    ) -> None:
        super().__init__(rows, root, vocabulary)
        held = np.array([row.split == "val" for row in rows])
        self.belief = belief[~held]
        self.truth = belief[held][: len(self.held)] > [tag.threshold for tag in vocabulary]

    def targets(self, number: int) -> npt.NDArray[np.float32]:
        beliefs: npt.NDArray[np.float32] = self.belief[number].astype(np.float32)
        return beliefs


def distill(teacher: Teacher, run: Run, report: Reporter | None = None) -> Path:
    """Trains the run's recipe to say of the photos below `run.data` what the teacher says.

    Raises:
        AnytagError: no photos, no captions to learn from, or what `run.train` raises.
    """
    report = report or Reporter()
    if run.recipe.objective.captions:
        raise AnytagError("photos without captions cannot teach a caption head; take ram-plus-14m or small")
    check_launch(report)
    with folder_of_run(run.out):
        return _distill(teacher, run, report)


def _distill(teacher: Teacher, run: Run, report: Reporter) -> Path:
    folder = Path(run.data)
    paths = photos_in(folder)
    file = run.out / "beliefs.npy"
    from_first(lambda: beliefs(teacher, paths, file, report=report) is None)  # one process asks the teacher
    belief = beliefs(teacher, paths, file, report=report)
    read = ~np.isnan(belief[:, 0]) if belief.shape[1] else np.zeros(len(paths), dtype=bool)
    named = [os.path.relpath(path, folder) for path, good in zip(paths, read, strict=True) if good]
    rows = [
        Row(name, "unlabelled", "val" if number % HELD_OUT_PART == HELD_OUT_PART - 1 else "train")
        for number, name in enumerate(named)
    ]
    photos = TaughtPhotos(rows, folder, teacher.vocabulary, belief[read])
    teacher.vocabulary.write(run.out / "vocabulary.jsonl")
    recipe = replace(run.recipe, objective=replace(run.recipe.objective, aligns=False))
    return go(prepare_with(replace(run, recipe=recipe), photos, report), run)


def student_recipe(name: str, numbers: Sequence[str]) -> TrainRecipe:
    """A recipe by name with `key=value` over it, as it can be taught on photos without captions.

    Raises:
        AnytagError: there is no such recipe, or a number is wrong or has no effect here.
    """
    found = find(name)
    return parse_train(replace(found, objective=replace(found.objective, aligns=False)), numbers)


def load_teacher(model: str) -> Tagger:
    """A model by name or folder."""
    return Tagger.load(model)


def summary(out: Path) -> str:
    """The last line of a run's log, for people."""
    lines = (out / "log.jsonl").read_text(encoding="utf-8").splitlines()
    told = [json.loads(line) for line in lines]
    agreement = [line["mAP"] for line in told if "mAP" in line]
    if not agreement:
        return ""
    read = int((~np.isnan(np.load(out / "beliefs.npy", mmap_mode="r")[:, 0])).sum())
    over = counted(read // HELD_OUT_PART, "photo")
    return f"agrees with the teacher's tags: mAP {agreement[-1]:.3f} over {over} held out"
