"""An evaluation as the command line asks for it: data, models and rivals by name -> a report."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from anytag._typing import Floats
from anytag.captioner import Captioner
from anytag.errors import AnytagError
from anytag.evaluation import benchmarks
from anytag.evaluation.adapters import (
    RIVALS,
    ZERO_SHOT,
    Contestant,
    PromptSet,
    TaggerContestant,
    contestant,
    shared,
)
from anytag.evaluation.cost import cost
from anytag.evaluation.evaluate import RESAMPLES, Report, evaluate_captions, evaluate_retrieval, evaluate_tags
from anytag.evaluation.tasks import Kind, TagTask, TextTask, names_task, rows_of, text_task, vocabulary_task
from anytag.models import published
from anytag.progress import SILENT, Reporter, watched
from anytag.retriever import Retriever
from anytag.runtime.base import Device
from anytag.vocabulary import Vocabulary

MISSING = 0.01
"""Share of a benchmark's photos that may be missing unless more are allowed."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What to measure.

    Attributes:
        models: the first is evaluated, the others stand beside it; names or folders, None is the embedded.
        data: rows.jsonl or another format of `anytag data`, or the name of a benchmark.
        kind: the task; None is the benchmark's own, or tagging.
        rivals: see `contestants.contestant`.
        split, source, limit: which rows of data that is not a benchmark.
        images, lists: folders of a benchmark.
        at_least: photos that a tag needs to count in means over tags.
        times: resamples of the bootstrap.
        costs: whether time and memory are measured.
        allow_missing: whether a benchmark goes on when more than `MISSING` of its photos are not there.
        prompts: what zero-shot rivals say of a name: one sentence, or the mean of RAM's 63.
    """

    data: str
    models: tuple[str | None, ...] = (None,)
    kind: Kind | None = None
    rivals: tuple[str, ...] = ()
    split: str = "test"
    source: str | None = None
    limit: int | None = None
    images: Path | None = None
    lists: Path | None = None
    at_least: int = 5
    times: int = RESAMPLES
    device: Device = "auto"
    costs: bool = True
    allow_missing: bool = False
    prompts: PromptSet = "one"

    @property
    def task(self) -> Kind:
        """The task, decided."""
        if self.kind is not None:
            return self.kind
        return benchmarks.BENCHMARKS[self.data].kind if self.data in benchmarks.BENCHMARKS else "tagging"


def run(asked: Evaluation, *, report: Reporter = SILENT) -> Report:
    """Measures what is asked.

    Raises:
        AnytagError: data or models are not there, or nothing can be measured on them; says what to type next.
    """
    return _held_back(asked, _measured(asked, report))


def _measured(asked: Evaluation, report: Reporter) -> Report:
    if asked.prompts != "one" and not any(one.startswith(ZERO_SHOT) for one in asked.rivals):
        raise AnytagError(
            f"--prompts {asked.prompts} is for rivals that are told names: give --rival open_clip:… or "
            "--rival transformers:… too, or leave it out"
        )
    if asked.task in ("caption", "retrieval"):
        texts = _text_task(asked)
        return (
            _captions(asked, texts, report) if asked.task == "caption" else _retrieval(asked, texts, report)
        )
    specs = [*asked.models, *asked.rivals]
    contestants = _named(
        [contestant(spec, device=asked.device, prompts=asked.prompts) for spec in specs], specs
    )
    ours = [one for one in contestants if isinstance(one, TaggerContestant)]
    task = _tag_task(asked, ours[0].tagger.vocabulary)
    if task.ids is not None and len(ours) > 1:
        both = shared(task, ours)
        whole = len(both) == len(task.tags)
        task = replace(task.part(tags=both), published=task.published if whole else ())
    result = evaluate_tags(
        task, contestants, kind=asked.task, at_least=asked.at_least, times=asked.times, report=report
    )
    if not asked.costs:
        return result
    readable = [n for n, photo in enumerate(task.photos) if str(photo) not in result.failed]
    task = task.part(photos=readable)  # a photo that fails costs next to nothing
    found = zip(contestants, specs, strict=True)
    return replace(result, costs={one.name: cost(spec, task, device=asked.device) for one, spec in found})


def _held_back(asked: Evaluation, report: Report) -> Report:
    """The same; figures of others stand only beside a whole benchmark: on a part of it they mean nothing."""
    if asked.data not in benchmarks.BENCHMARKS or not (report.failed or asked.limit):
        return report
    limited = asked.limit and not report.published
    part = [f"only the first {asked.limit} photos were asked"] if limited else []
    part += [f"{len(report.failed)} photos are missing or cannot be read"] if report.failed else []
    if not part:
        return report
    note = f"This is not the whole benchmark ({', '.join(part)}), so published figures are not shown."
    return replace(report, published=(), notes=(*report.notes, note))


def _named(contestants: list[Contestant], specs: Sequence[str | None]) -> list[Contestant]:
    """The same, each model with a name of its own: the one in its card, and the folder where that repeats."""
    names = [one.name for one in contestants]
    for number, (one, spec) in enumerate(zip(contestants, specs, strict=True)):
        if isinstance(one, TaggerContestant) and names.count(one.name) > 1:
            contestants[number] = TaggerContestant(one.tagger, name=f"{one.name} ({spec or 'embedded'})")
    return contestants


def _root(asked: Evaluation) -> Path:
    """The folder that photos of plain data are relative to."""
    path = Path(asked.data)
    if not path.exists():
        known = ", ".join(benchmarks.BENCHMARKS)
        raise AnytagError(f"{asked.data} is neither a file of rows nor a benchmark; benchmarks are {known}")
    return asked.images or (path if path.is_dir() else path.parent)


def _title(asked: Evaluation) -> str:
    parts = [Path(asked.data).name, asked.split, asked.source or ""]
    return " ".join(filter(None, parts)) + (f", the first {asked.limit}" if asked.limit else "")


def _benchmark(asked: Evaluation) -> dict[str, Any]:
    """Folders and task of a benchmark, as keywords."""
    one = benchmarks.known(asked.data)
    if asked.images is None:
        raise AnytagError(f"{asked.data} needs photos: get {one.images}, and give their folder as --images")
    lists = asked.lists or published.lists()
    return {"lists": lists, "images": asked.images, "kind": asked.task}


Task = TypeVar("Task", TagTask, TextTask)


def _complete(asked: Evaluation, task: Task) -> Task:
    """The first photos of a benchmark, as many as are wanted.

    Raises:
        AnytagError: more of them are missing than a figure may leave out.
    """
    if asked.limit and asked.limit < len(task.photos):
        task = replace(task.part(photos=range(asked.limit)), published=())
    missing = [photo for photo in task.photos if not photo.is_file()]
    if len(missing) > MISSING * len(task.photos) and not asked.allow_missing:
        raise AnytagError(
            f"{len(missing):,} of the {len(task.photos):,} photos of {asked.data} are missing, the first: "
            f"{missing[0]}; get {benchmarks.known(asked.data).images}. --allow-missing measures without "
            "them, and such figures cannot be compared with others"
        )
    return task


def _tag_task(asked: Evaluation, vocabulary: Vocabulary) -> TagTask:
    if asked.data in benchmarks.BENCHMARKS:
        task = benchmarks.tag_benchmark(asked.data, vocabulary=vocabulary, **_benchmark(asked))
        return _complete(asked, task)
    root = _root(asked)
    rows = rows_of(Path(asked.data), split=asked.split, source=asked.source, limit=asked.limit)
    if asked.task == "open-set":
        return names_task(_title(asked), rows, root=root)
    return vocabulary_task(_title(asked), rows, root=root, vocabulary=vocabulary)


def _text_task(asked: Evaluation) -> TextTask:
    if asked.data in benchmarks.BENCHMARKS:
        return _complete(asked, benchmarks.text_benchmark(asked.data, **_benchmark(asked)))
    root = _root(asked)
    rows = rows_of(Path(asked.data), split=asked.split, source=asked.source, limit=asked.limit)
    return text_task(_title(asked), rows, root=root)


def _captions(asked: Evaluation, task: TextTask, report: Reporter) -> Report:
    if asked.rivals:
        raise AnytagError("--rival has no captions; leave it out, or give --task tagging or retrieval")
    answers: dict[str, list[str | None]] = {}
    trained_on: dict[str, str] = {}
    failed: dict[int, str] = {}
    for spec in asked.models:
        model = Captioner.load(spec, device=asked.device)
        name = _unique(model.tagger.card.name, spec, answers)
        found = list(watched(model.caption_many(task.photos), report, total=len(task.photos), what=name))
        failed |= {number: one.error.message for number, one in enumerate(found) if one.error}
        answers[name] = [one.text for one in found]
        trained_on[name] = model.tagger.card.training_data
    result = evaluate_captions(task, answers, failed=failed, times=asked.times)
    return _with_training(result, trained_on)


def _with_training(report: Report, trained_on: dict[str, str]) -> Report:
    measured = [replace(one, trained_on=trained_on[one.name]) for one in report.measured]
    return replace(report, measured=measured)


def _unique(name: str, spec: str | None, taken: Container[str]) -> str:
    return f"{name} ({spec or 'embedded'})" if name in taken else name


Similar = Callable[[Sequence[Path], Sequence[str]], tuple[Floats, dict[int, str]]]


def _retrieval(asked: Evaluation, task: TextTask, report: Reporter) -> Report:
    texts = [text for captions in task.captions for text in captions]
    owner = np.repeat(np.arange(len(task.photos)), [len(captions) for captions in task.captions])
    found: dict[str, Floats] = {}
    failed: dict[int, str] = {}
    trained_on: dict[str, str] = {}
    for spec in (*asked.models, *asked.rivals):
        one, similar = _similarity(asked, spec, report)
        name = _unique(one.name, spec, found)
        found[name], why = similar(task.photos, texts)
        trained_on[name] = getattr(one, "trained_on", "")
        failed |= why
    kept = np.array([number not in failed for number in range(len(task.photos))])
    answers = {name: scores[kept][:, kept[owner]] for name, scores in found.items()}
    result = evaluate_retrieval(task.part(photos=np.flatnonzero(kept).tolist()), answers, times=asked.times)
    unread = {str(task.photos[number]): why for number, why in failed.items()}
    return replace(_with_training(result, trained_on), failed=unread)


def _similarity(asked: Evaluation, spec: str | None, report: Reporter) -> tuple[Contestant, Similar]:
    """Who is asked, and what gives N×M and why photos could not be read."""
    if (spec or "").partition(":")[0] in RIVALS:
        rival: Any = contestant(spec, device=asked.device)
        if not hasattr(rival, "similar"):
            raise AnytagError(
                f"{spec} cannot tell how well a sentence fits; leave it out of --task retrieval"
            )
        return rival, lambda photos, texts: rival.similar(photos, texts, report=report)
    retriever = Retriever.load(spec, device=asked.device)
    ours = TaggerContestant(retriever.tagger)

    def similar(photos: Sequence[Path], texts: Sequence[str]) -> tuple[Floats, dict[int, str]]:
        gallery = retriever.embed(watched(photos, report, total=len(photos), what=ours.name))
        why = {path: failure.message for path, failure in gallery.failed}
        failed = {number: why[str(path)] for number, path in enumerate(photos) if str(path) in why}
        scores = np.zeros((len(photos), len(texts)), np.float32)
        scores[[number for number in range(len(photos)) if number not in failed]] = retriever.score(
            gallery, texts
        )
        return scores, failed

    return ours, similar
