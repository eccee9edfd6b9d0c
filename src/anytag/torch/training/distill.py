"""Distil a large model into a small one on unlabelled photos (`anytag distill`).

The teacher tags every photo once; its probabilities for all tags are the student's soft targets, and its
vocabulary is the student's. A resumed run reads them from OUT/teacher.
"""

from __future__ import annotations

import hashlib
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
from anytag.torch.training.checkpoint import LOG, read_log
from anytag.torch.training.distributed import from_main_process
from anytag.torch.training.effects import parse_train
from anytag.torch.training.feature_cache import Array, build, open_cache
from anytag.torch.training.fit import finish, prepare_with
from anytag.torch.training.launch import check_launch, locked_run_folder
from anytag.torch.training.photo_dataset import MAX_HELD_OUT, Photos
from anytag.torch.training.recipes import Recipe, find
from anytag.torch.training.report import Reporter, counted
from anytag.torch.training.run import Run
from anytag.vocabulary import Vocabulary

SCORES = "teacher"
"""Subfolder of a run with the teacher's scores."""
MIN_STORED = 0.02
"""Lower probabilities, which most tags have for most photos, are stored as 0."""
HELD_OUT_EVERY = 20
"""Every n-th photo is held out to measure the agreement of student and teacher."""


class Teacher(Protocol):
    """The interface of a teacher; `anytag.Tagger` implements it."""

    @property
    def vocabulary(self) -> Vocabulary: ...

    def tag_many(self, images: Sequence[Path], *, threshold: float) -> Iterator[TagResult]: ...


def photos_in(folder: Path) -> list[Path]:
    """All photos in a folder and its subfolders, sorted.

    Raises:
        AnytagError: there are none.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise AnytagError(f"{folder} contains no photos; expected files such as *.jpg")
    return paths


def soft_targets(teacher: Teacher, paths: Sequence[Path], folder: Path, *, report: Reporter) -> Halves:
    """The teacher's probabilities for every photo, float16 N×K; NaN for photos that cannot be read.

    They are cached in `folder` in shards, so that an interrupted run continues.

    Raises:
        AnytagError: `folder` belongs to other photos or another teacher.
    """
    column = {key: number for number, key in enumerate(teacher.vocabulary.ids)}

    def ask(numbers: range) -> dict[str, Array]:
        targets = np.zeros((len(numbers), len(column)), np.float16)
        part = [paths[number] for number in numbers]
        for row, tags in zip(targets, teacher.tag_many(part, threshold=MIN_STORED), strict=True):
            if tags.error:
                report.skip(tags.error.message)
                row[:] = np.nan
            for tag in tags.tags:
                row[column[tag.id]] = tag.score
        return {"scores": targets}

    key = {"photos": _key(teacher, paths), "stage": "scores"}
    cache = build(folder, len(paths), lambda: ask, key=key, what="ask the teacher", workers=1, report=report)
    return cache.array("scores")


def _key(teacher: Teacher, paths: Sequence[Path]) -> str:
    """A hash of the photos (path, size and time) and of the teacher's card and vocabulary."""
    digest = hashlib.sha256(repr((getattr(teacher, "card", None), teacher.vocabulary.ids)).encode())
    for path in paths:
        facts = path.stat()
        digest.update(f"\0{path}\0{facts.st_size}\0{facts.st_mtime_ns}".encode(errors="surrogateescape"))
    return digest.hexdigest()


def distill(teacher: Teacher, run: Run, report: Reporter | None = None) -> Path:
    """Train the run's recipe to predict the teacher's probabilities for the photos in `run.data`.

    Raises:
        AnytagError: there are no photos, the recipe needs captions or cached features, or the errors of
            `fit.train`.
    """
    report = report or Reporter()
    if run.recipe.features is not None:
        raise AnytagError("this recipe trains on cached features of labelled photos; use small")
    if run.recipe.objective.captions:
        raise AnytagError(
            "a caption head cannot be trained on photos without captions; use ram-plus-14m or small"
        )
    check_launch(report)
    with locked_run_folder(run.out):
        return _distill(teacher, run, report)


def _distill(teacher: Teacher, run: Run, report: Reporter) -> Path:
    folder = Path(run.data)
    paths = photos_in(folder)
    cache = run.out / SCORES
    from_main_process(lambda: len(soft_targets(teacher, paths, cache, report=report)))
    scores = soft_targets(teacher, paths, cache, report=Reporter())
    readable = ~np.isnan(scores[:, 0]) if scores.shape[1] else np.zeros(len(paths), dtype=bool)
    names = [os.path.relpath(path, folder) for path, good in zip(paths, readable, strict=True) if good]
    rows = [
        Row(name, "unlabelled", "val" if number % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 else "train")
        for number, name in enumerate(names)
    ]
    photos = Photos(rows, folder, teacher.vocabulary, soft=scores[readable], report=report)
    teacher.vocabulary.write(run.out / "vocabulary.jsonl")
    recipe = replace(run.recipe, objective=replace(run.recipe.objective, aligns=False))
    run = replace(run, recipe=recipe)
    return finish(prepare_with(run, photos, report), run)


def student_recipe(name: str, numbers: Sequence[str]) -> Recipe:
    """A recipe by name with `key=value` pairs, without the term that needs captions.

    Raises:
        AnytagError: there is no such recipe, or a value is invalid or has no effect here.
    """
    recipe = find(name)
    recipe = parse_train(replace(recipe, objective=replace(recipe.objective, aligns=False)), numbers)
    if recipe.objective.aligns:
        raise AnytagError("objective.aligns=true has no effect here: it needs captions; leave it out")
    if recipe.vocabulary:
        raise AnytagError("vocabulary has no effect here: the student has the teacher's; leave it out")
    return recipe


def summary(out: Path) -> str:
    """A sentence with the last figure in a run's log; "" if there is none."""
    agreement = [line["mAP"] for line in read_log(out / LOG) if "mAP" in line]
    if not agreement:
        return ""
    readable = int((~np.isnan(open_cache(out / SCORES).array("scores")[:, 0])).sum())
    photos = counted(min(readable // HELD_OUT_EVERY, MAX_HELD_OUT), "held-out photo")
    return f"agreement with the teacher's tags: mAP {agreement[-1]:.3f} on {photos}"
