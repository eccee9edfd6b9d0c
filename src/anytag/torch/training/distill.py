"""A large model teaches a small one on photos that nobody labelled: what `anytag distill` does.

The teacher tags every photo once, with all its tags; its probabilities are the student's targets, soft as
they are, and its vocabulary is the student's. When the run goes on, they are read from OUT/teacher.
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

from anytag._typing import Halves
from anytag.data.rows import Row
from anytag.errors import AnytagError
from anytag.images import SUFFIXES
from anytag.results import TagResult
from anytag.torch.training.distributed import from_first
from anytag.torch.training.effects import parse_train
from anytag.torch.training.feature_cache import Array, build, open_cache
from anytag.torch.training.fit import finish, prepare_with
from anytag.torch.training.launch import check_launch, folder_of_run
from anytag.torch.training.photo_dataset import Photos
from anytag.torch.training.recipes import Recipe, find
from anytag.torch.training.report import Reporter, counted
from anytag.torch.training.run import Run
from anytag.vocabulary import Vocabulary

SCORES = "teacher"
"""Folder of a run with the teacher's scores."""
KEPT = 0.02
"""Lower probabilities are stored as 0: most of a vocabulary, in most photos."""
HELD_OUT_PART = 20
"""Every so many-th photo only measures: does the student say what the teacher says?"""


class Teacher(Protocol):
    """What is asked of a teacher; `anytag.Tagger` is one."""

    @property
    def vocabulary(self) -> Vocabulary: ...

    def tag_many(self, images: Sequence[Path], *, threshold: float) -> Iterator[TagResult]: ...


def photos_in(folder: Path) -> list[Path]:
    """All photos below a folder, sorted.

    Raises:
        AnytagError: there are none.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise AnytagError(f"{folder} holds no photos; expected files such as *.jpg")
    return paths


def soft_targets(teacher: Teacher, paths: Sequence[Path], folder: Path, *, report: Reporter) -> Halves:
    """What the teacher believes of every photo, float16 N×K; NaN where a photo cannot be read.

    Kept in `folder`, shard by shard, so that what is killed goes on.

    Raises:
        AnytagError: `folder` is of other photos or another teacher.
    """
    column = {key: number for number, key in enumerate(teacher.vocabulary.ids)}

    def ask(numbers: range) -> dict[str, Array]:
        targets = np.zeros((len(numbers), len(column)), np.float16)
        some = [paths[number] for number in numbers]
        for row, tags in zip(targets, teacher.tag_many(some, threshold=KEPT), strict=True):
            if tags.error:
                report.say(f"Left out: {tags.error.message}")
                row[:] = np.nan
            for tag in tags.tags:
                row[column[tag.id]] = tag.score
        return {"scores": targets}

    key = {"photos": _key(teacher, paths), "stage": "scores"}
    cache = build(folder, len(paths), lambda: ask, key=key, what="ask the teacher", workers=1, report=report)
    return cache.whole("scores")


def _key(teacher: Teacher, paths: Sequence[Path]) -> str:
    """One hash of the photos, by name, size and time, and of what the teacher's folder says of itself."""
    digest = hashlib.sha256(repr((getattr(teacher, "card", None), teacher.vocabulary.ids)).encode())
    for path in paths:
        facts = path.stat()
        digest.update(f"\0{path}\0{facts.st_size}\0{facts.st_mtime_ns}".encode(errors="surrogateescape"))
    return digest.hexdigest()


def distill(teacher: Teacher, run: Run, report: Reporter | None = None) -> Path:
    """Trains the run's recipe to say of the photos below `run.data` what the teacher says.

    Raises:
        AnytagError: no photos, no captions to learn from, or what `run.train` raises.
    """
    report = report or Reporter()
    if run.recipe.features is not None:
        raise AnytagError("this recipe learns from cached features of labelled photos; take small")
    if run.recipe.objective.captions:
        raise AnytagError("photos without captions cannot teach a caption head; take ram-plus-14m or small")
    check_launch(report)
    with folder_of_run(run.out):
        return _distill(teacher, run, report)


def _distill(teacher: Teacher, run: Run, report: Reporter) -> Path:
    folder = Path(run.data)
    paths = photos_in(folder)
    kept = run.out / SCORES
    from_first(lambda: len(soft_targets(teacher, paths, kept, report=report)))  # one process asks
    scores = soft_targets(teacher, paths, kept, report=Reporter())
    read = ~np.isnan(scores[:, 0]) if scores.shape[1] else np.zeros(len(paths), dtype=bool)
    named = [os.path.relpath(path, folder) for path, good in zip(paths, read, strict=True) if good]
    rows = [
        Row(name, "unlabelled", "val" if number % HELD_OUT_PART == HELD_OUT_PART - 1 else "train")
        for number, name in enumerate(named)
    ]
    photos = Photos(rows, folder, teacher.vocabulary, soft=scores[read], report=report)
    teacher.vocabulary.write(run.out / "vocabulary.jsonl")
    recipe = replace(run.recipe, objective=replace(run.recipe.objective, aligns=False))
    run = replace(run, recipe=recipe)
    return finish(prepare_with(run, photos, report), run)


def student_recipe(name: str, numbers: Sequence[str]) -> Recipe:
    """A recipe by name with `key=value` over it, as it can be taught on photos without captions.

    Raises:
        AnytagError: there is no such recipe, or a number is wrong or has no effect here.
    """
    recipe = find(name)
    return parse_train(replace(recipe, objective=replace(recipe.objective, aligns=False)), numbers)


def summary(out: Path) -> str:
    """The last line of a run's log, for people."""
    lines = (out / "log.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    agreement = [line["mAP"] for line in entries if "mAP" in line]
    if not agreement:
        return ""
    read = int((~np.isnan(open_cache(out / SCORES).whole("scores")[:, 0])).sum())
    over = counted(read // HELD_OUT_PART, "photo")
    return f"agrees with the teacher's tags: mAP {agreement[-1]:.3f} over {over} held out"
