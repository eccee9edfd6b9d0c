"""Run a recipe on rows: dataset, student, trainer, calibration, model folder."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path, PurePath

import torch

from anytag._io import atomic_write
from anytag.data.formats import root_of
from anytag.errors import AnytagError, RefusedOutputError
from anytag.models.folder import other_files
from anytag.text_encoders import TextEncoder
from anytag.text_encoders.wordpiece import WordPieces
from anytag.torch.training import mini
from anytag.torch.training.annotation_store import Annotations
from anytag.torch.training.build import is_learned, make_student, resolve_network
from anytag.torch.training.caption_reader import CaptionReader
from anytag.torch.training.checkpoint import STUDENT
from anytag.torch.training.dataset import check_batch
from anytag.torch.training.distributed import check_precision, join
from anytag.torch.training.effects import check_parts
from anytag.torch.training.estimate import check_network
from anytag.torch.training.init_weights import adopt_network, read_start, start_from
from anytag.torch.training.launch import check_launch, locked_run_folder
from anytag.torch.training.model_folder import can_be_written, fit_on_held_out, write_model, write_torch_model
from anytag.torch.training.photo_dataset import PhotoDataset, Photos, check_rows
from anytag.torch.training.recipes import Recipe
from anytag.torch.training.report import Reporter
from anytag.torch.training.run import Run
from anytag.torch.training.student import Student
from anytag.torch.training.teachers import ClipTeacher
from anytag.torch.training.texts import (
    make_text_encoder,
    read_tag_list,
    read_vocabulary,
    read_wordpieces,
    text_rows,
    text_width,
)
from anytag.torch.training.trainer import Trainer, accelerator_of
from anytag.vocabulary import Vocabulary

MODEL, RECIPE = "model", "recipe.json"


def train(run: Run, report: Reporter | None = None) -> Path:
    """Train to the end, or resume an interrupted run.

    Returns:
        OUT/model, a folder for `anytag tag`; or OUT/student.pt for `mini`, from which a release script makes
        a folder, and for published families with a timm backbone, which a card cannot describe.

    Raises:
        AnytagError: the data, the vocabulary or a file in the recipe cannot be read, or the run fails.
    """
    report = report or Reporter()
    check_launch(report)
    with locked_run_folder(run.out):
        return finish(prepare(run, report), run)


def prepare(run: Run, report: Reporter) -> Trainer:
    """Prepare everything that a run needs for its first step."""
    check_precision(run.recipe.precision)
    check_parts(run.recipe)
    run.out.mkdir(parents=True, exist_ok=True)
    if run.recipe.features is not None:
        return mini.prepare(run, report)
    if run.recipe.start:
        run = replace(run, recipe=adopt_network(run.recipe, read_start(Path(run.recipe.start))))
    tags = read_tag_list(run.tag_list) if run.tag_list else None
    rows = Annotations.cached(run.data, report=report, tag_list=tags.ids if tags else ())
    check_rows(rows, run, parts=parts_of(run), report=report)
    vocabulary = read_vocabulary(run.recipe, rows, run.out, report=report, tags=tags)
    captioned = run.recipe.objective.matching is not None
    photos = Photos(rows, root_of(str(run.data)), vocabulary, captioned=captioned, report=report)
    if not any(photos.union):
        raise AnytagError(
            f"{run.data}: no training photo has a tag of the vocabulary "
            f"({', '.join(vocabulary.ids[:3])} ...): give captions or tags that match, or vocabulary=FILE"
        )
    pieces = read_wordpieces(run.recipe, rows, vocabulary, run.out)
    return prepare_with(run, photos, report, pieces=pieces)


def parts_of(run: Run) -> int:
    """Number of equal parts of a step, over processes and gradient accumulation."""
    return join() * run.run_options.accumulate


def prepare_with(run: Run, photos: Photos, report: Reporter, *, pieces: WordPieces | None = None) -> Trainer:
    """Like `prepare`, with photos that have been read already."""
    run_options = run.run_options
    check_parts(run.recipe)
    check_precision(run.recipe.precision)
    check_batch(len(photos), run.recipe.batch_size, parts=parts_of(run))
    recipe, text = _resolved(run.recipe, pieces, report)
    accelerator = accelerator_of(recipe, run_options)
    check_network(recipe, text_width=text_width(recipe, text), parts=parts_of(run))
    teacher = _teacher(recipe, accelerator.device)
    objective, config = recipe.objective, recipe.network
    reads = objective.reads or objective.aligns
    dataset = PhotoDataset(
        photos, size=config.size, batch_size=recipe.batch_size, seed=recipe.seed,
        rank=accelerator.process_index, world=accelerator.num_processes, workers=run_options.workers,
        parsed_only=objective.captions and not objective.distils,
        reader=CaptionReader(objective, config, text, pieces) if reads else None, report=report,
    )  # fmt: skip
    student = build(recipe, photos.vocabulary, text, pieces)
    if recipe.start:
        report.say(start_from(student, read_start(Path(recipe.start)), vocabulary=photos.vocabulary))
    student.init_momentum()
    trainer = Trainer(
        student, dataset, recipe, run.out, run_options=run_options, accelerator=accelerator, report=report,
        teacher=teacher, sources=run.source_hashes(),
    )  # fmt: skip
    report.say(
        f"{len(photos)} photos, {len(photos.vocabulary)} tags, {trainer.total} steps of {recipe.batch_size}."
    )
    return trainer


def _teacher(recipe: Recipe, device: torch.device) -> ClipTeacher | None:
    """The recipe's teacher, on the device.

    Raises:
        AnytagError: its vectors have another width than the network's.
    """
    if not recipe.teacher:
        return None
    teacher, width = ClipTeacher.load(recipe.teacher), recipe.network.width
    if teacher.width != width:
        raise AnytagError(
            f"teacher={recipe.teacher} has vectors of width {teacher.width}, but the network's have {width}: "
            "give clip= of the same model, so that the tags' vectors have its width"
        )
    return teacher.to(device)


def _resolved(recipe: Recipe, pieces: WordPieces | None, report: Reporter) -> tuple[Recipe, TextEncoder]:
    """The final recipe and the text encoder; reports terms that are left out.

    Raises:
        AnytagError: the momentum queue is shorter than a batch.
    """
    objective, text = recipe.objective, make_text_encoder(recipe)
    if objective.matching is not None and objective.matching.queue < recipe.batch_size:
        raise AnytagError(
            f"objective.matching.queue={objective.matching.queue} is less than "
            f"batch_size={recipe.batch_size}; give a longer queue or a smaller batch_size"
        )
    if objective.distils and not recipe.teacher:
        report.say("There is no teacher (teacher=MODEL): the distillation term is left out.")
    width = text_width(recipe, text)
    if objective.aligns and width != text.dim:  # captions must be encoded like tags
        report.say(
            f"The tags' text vectors have width {width}, and there is no text encoder of that width "
            "(clip=MODEL): the alignment term, which needs vectors of captions, is left out."
        )
        recipe = replace(recipe, objective=replace(objective, aligns=False))
    return resolve_network(recipe, width=width, pieces=pieces), text


def build(
    recipe: Recipe, vocabulary: Vocabulary, text: TextEncoder, pieces: WordPieces | None = None
) -> Student:
    """Build the untrained student for a vocabulary; deterministic for a recipe.

    Raises:
        AnytagError: the number of the recipe's text vectors does not fit the tags.
    """
    torch.manual_seed(recipe.seed)
    rows = None
    if not is_learned(recipe.network):
        rows = torch.from_numpy(text_rows(recipe, recipe.network, vocabulary, text))
    return make_student(recipe, tags=len(vocabulary), rows=rows, pieces=pieces)


def finish(trainer: Trainer, run: Run) -> Path:
    """Like `train`, with a prepared trainer.

    Raises:
        RefusedOutputError: OUT/model is of a run whose state is missing, or has files of others.
    """
    trainer.resume()
    if (run.out / MODEL).exists():
        if trainer.step >= trainer.total:
            trainer.report.say("The run has ended: there is nothing to do.")
            return run.out / MODEL
        _check_replaceable(run.out / MODEL, has_state=trainer.step > 0)
    recipe, dataset, main = trainer.recipe, trainer.dataset, trainer.accelerator.is_main_process
    if main:
        with atomic_write(run.out / RECIPE) as draft:
            draft.write_text(json.dumps(asdict(recipe), indent=1), encoding="utf-8")
    trainer.fit()
    folded = recipe.network.cross is None
    if not isinstance(dataset, PhotoDataset) or not (folded or can_be_written(recipe)):
        return run.out / STUDENT
    trainer.load_averages()
    fitted = fit_on_held_out(trainer, dataset.photos.vocabulary)  # in every process
    if main:
        data = f"{len(dataset.photos)} photos of {PurePath(run.data).name}"
        pieces = None if dataset.reader is None else dataset.reader.pieces
        write = write_model if folded else partial(write_torch_model, pieces=pieces)
        write(result_of(trainer, dataset, run), recipe, run.out / MODEL, fitted=fitted, data=data)
    return run.out / MODEL


def _check_replaceable(model: Path, *, has_state: bool) -> None:
    """Check that a folder is a model of this run and has nothing else, before it is trained further."""
    if not has_state:
        raise RefusedOutputError(f"{model} exists, and the state of its run does not: give another folder")
    others = other_files(model)
    if others:
        raise RefusedOutputError(
            f"{model} would be replaced, and {others[0]} in it was not written by its run: move it away"
        )


def result_of(trainer: Trainer, dataset: PhotoDataset, run: Run) -> Student:
    """The trained student on the CPU; if it was sharded, it is read from OUT/student.pt."""
    student = trainer.plain
    if trainer.sharded:
        recipe = trainer.recipe
        student = build(recipe, dataset.photos.vocabulary, make_text_encoder(recipe))
        start_from(student, run.out / STUDENT)
    return student.cpu().eval()
