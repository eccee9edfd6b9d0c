"""Run an evaluation for the command line: data, models and baselines by name -> a report."""

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
    BASELINES,
    ZERO_SHOT,
    ModelAdapter,
    PromptSet,
    TaggerAdapter,
    adapter,
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
"""Share of a benchmark's photos that may be missing by default."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Settings of an evaluation.

    Attributes:
        models: the first is evaluated and compared with the others; names or folders, None: the embedded.
        data: rows.jsonl or another format of `anytag data`, or the name of a benchmark.
        kind: the task; None is the benchmark's own, or tagging.
        baselines: see `adapters.adapter`.
        split, source, limit: selection of rows, for data that is not a benchmark.
        images, lists: folders of a benchmark.
        at_least: number of photos that a tag needs for means over tags.
        times: number of bootstrap resamples.
        costs: whether time and memory are measured.
        allow_missing: whether more than `MISSING` of a benchmark's photos may be missing.
        prompts: of zero-shot baselines: one, or the mean of RAM's 63.
    """

    data: str
    models: tuple[str | None, ...] = (None,)
    kind: Kind | None = None
    baselines: tuple[str, ...] = ()
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
        """The task, with the default applied."""
        if self.kind is not None:
            return self.kind
        return benchmarks.BENCHMARKS[self.data].kind if self.data in benchmarks.BENCHMARKS else "tagging"


def run(setup: Evaluation, *, report: Reporter = SILENT) -> Report:
    """Run an evaluation.

    Raises:
        AnytagError: data or models do not exist, or nothing can be measured on them; says what to do next.
    """
    return _without_published(setup, _measured(setup, report))


def _measured(setup: Evaluation, report: Reporter) -> Report:
    if setup.prompts != "one" and not any(one.startswith(ZERO_SHOT) for one in setup.baselines):
        raise AnytagError(
            f"--prompts {setup.prompts} is for zero-shot baselines: give --baseline open_clip:… or "
            "--baseline transformers:… too, or leave it out"
        )
    if setup.task in ("caption", "retrieval"):
        texts = _text_task(setup)
        return (
            _captions(setup, texts, report) if setup.task == "caption" else _retrieval(setup, texts, report)
        )
    specs = [*setup.models, *setup.baselines]
    adapters = _named([adapter(spec, device=setup.device, prompts=setup.prompts) for spec in specs], specs)
    ours = [one for one in adapters if isinstance(one, TaggerAdapter)]
    task = _tag_task(setup, ours[0].tagger.vocabulary)
    if task.ids is not None and len(ours) > 1:
        both = shared(task, ours)
        whole = len(both) == len(task.tags)
        task = replace(task.part(tags=both), published=task.published if whole else ())
    result = evaluate_tags(
        task, adapters, kind=setup.task, at_least=setup.at_least, times=setup.times, report=report
    )
    if not setup.costs:
        return result
    readable = [n for n, photo in enumerate(task.photos) if str(photo) not in result.failed]
    task = task.part(photos=readable)  # photos that fail take almost no time
    pairs = zip(adapters, specs, strict=True)
    return replace(result, costs={one.name: cost(spec, task, device=setup.device) for one, spec in pairs})


def _without_published(setup: Evaluation, report: Report) -> Report:
    """Remove published figures unless the whole benchmark was evaluated: they would not be comparable."""
    if setup.data not in benchmarks.BENCHMARKS or not (report.failed or setup.limit):
        return report
    limited = setup.limit and not report.published
    part = [f"only the first {setup.limit} photos were evaluated"] if limited else []
    part += [f"{len(report.failed)} photos are missing or cannot be read"] if report.failed else []
    if not part:
        return report
    note = f"This is not the whole benchmark ({', '.join(part)}), so published figures are not shown."
    return replace(report, published=(), notes=(*report.notes, note))


def _named(adapters: list[ModelAdapter], specs: Sequence[str | None]) -> list[ModelAdapter]:
    """Give each model a unique name: from its card, with the folder where names repeat."""
    names = [one.name for one in adapters]
    for number, (one, spec) in enumerate(zip(adapters, specs, strict=True)):
        if isinstance(one, TaggerAdapter) and names.count(one.name) > 1:
            adapters[number] = TaggerAdapter(one.tagger, name=f"{one.name} ({spec or 'embedded'})")
    return adapters


def _root(setup: Evaluation) -> Path:
    """The folder that paths of photos are relative to, for data that is not a benchmark."""
    path = Path(setup.data)
    if not path.exists():
        names = ", ".join(benchmarks.BENCHMARKS)
        raise AnytagError(f"{setup.data} is neither a file of rows nor a benchmark; benchmarks are {names}")
    return setup.images or (path if path.is_dir() else path.parent)


def _title(setup: Evaluation) -> str:
    parts = [Path(setup.data).name, setup.split, setup.source or ""]
    return " ".join(filter(None, parts)) + (f", the first {setup.limit}" if setup.limit else "")


def _benchmark(setup: Evaluation) -> dict[str, Any]:
    """Folders and task of a benchmark, as keyword arguments."""
    one = benchmarks.known(setup.data)
    if setup.images is None:
        raise AnytagError(f"{setup.data} needs photos: get {one.images}, and give their folder as --images")
    lists = setup.lists or published.lists()
    return {"lists": lists, "images": setup.images, "kind": setup.task}


Task = TypeVar("Task", TagTask, TextTask)


def _complete(setup: Evaluation, task: Task) -> Task:
    """Limit a benchmark to its first photos.

    Raises:
        AnytagError: more photos are missing than allowed.
    """
    if setup.limit and setup.limit < len(task.photos):
        task = replace(task.part(photos=range(setup.limit)), published=())
    missing = [photo for photo in task.photos if not photo.is_file()]
    if len(missing) > MISSING * len(task.photos) and not setup.allow_missing:
        raise AnytagError(
            f"{len(missing):,} of the {len(task.photos):,} photos of {setup.data} are missing, the first: "
            f"{missing[0]}; get {benchmarks.known(setup.data).images}. --allow-missing evaluates the others, "
            "but such figures are not comparable with published ones"
        )
    return task


def _tag_task(setup: Evaluation, vocabulary: Vocabulary) -> TagTask:
    if setup.data in benchmarks.BENCHMARKS:
        task = benchmarks.tag_benchmark(setup.data, vocabulary=vocabulary, **_benchmark(setup))
        return _complete(setup, task)
    root = _root(setup)
    rows = rows_of(Path(setup.data), split=setup.split, source=setup.source, limit=setup.limit)
    if setup.task == "open-set":
        return names_task(_title(setup), rows, root=root)
    return vocabulary_task(_title(setup), rows, root=root, vocabulary=vocabulary)


def _text_task(setup: Evaluation) -> TextTask:
    if setup.data in benchmarks.BENCHMARKS:
        return _complete(setup, benchmarks.text_benchmark(setup.data, **_benchmark(setup)))
    root = _root(setup)
    rows = rows_of(Path(setup.data), split=setup.split, source=setup.source, limit=setup.limit)
    return text_task(_title(setup), rows, root=root)


def _captions(setup: Evaluation, task: TextTask, report: Reporter) -> Report:
    if setup.baselines:
        raise AnytagError(
            "--baseline cannot write captions; leave it out, or use --task tagging or retrieval"
        )
    answers: dict[str, list[str | None]] = {}
    trained_on: dict[str, str] = {}
    failed: dict[int, str] = {}
    for spec in setup.models:
        model = Captioner.load(spec, device=setup.device)
        name = _unique(model.tagger.card.name, spec, answers)
        captions = list(watched(model.caption_many(task.photos), report, total=len(task.photos), what=name))
        failed |= {number: one.error.message for number, one in enumerate(captions) if one.error}
        answers[name] = [one.text for one in captions]
        trained_on[name] = model.tagger.card.training_data
    result = evaluate_captions(task, answers, failed=failed, times=setup.times)
    return _with_training(result, trained_on)


def _with_training(report: Report, trained_on: dict[str, str]) -> Report:
    measured = [replace(one, trained_on=trained_on[one.name]) for one in report.measured]
    return replace(report, measured=measured)


def _unique(name: str, spec: str | None, others: Container[str]) -> str:
    return f"{name} ({spec or 'embedded'})" if name in others else name


Similar = Callable[[Sequence[Path], Sequence[str]], tuple[Floats, dict[int, str]]]


def _retrieval(setup: Evaluation, task: TextTask, report: Reporter) -> Report:
    texts = [text for captions in task.captions for text in captions]
    owner = np.repeat(np.arange(len(task.photos)), [len(captions) for captions in task.captions])
    similarities: dict[str, Floats] = {}
    failed: dict[int, str] = {}
    trained_on: dict[str, str] = {}
    for spec in (*setup.models, *setup.baselines):
        one, similar = _similarity(setup, spec, report)
        name = _unique(one.name, spec, similarities)
        similarities[name], why = similar(task.photos, texts)
        trained_on[name] = getattr(one, "trained_on", "")
        failed |= why
    readable = np.array([number not in failed for number in range(len(task.photos))])
    answers = {name: scores[readable][:, readable[owner]] for name, scores in similarities.items()}
    result = evaluate_retrieval(
        task.part(photos=np.flatnonzero(readable).tolist()), answers, times=setup.times
    )
    unread = {str(task.photos[number]): why for number, why in failed.items()}
    return replace(_with_training(result, trained_on), failed=unread)


def _similarity(setup: Evaluation, spec: str | None, report: Reporter) -> tuple[ModelAdapter, Similar]:
    """A model, and its function for similarities N×M and reasons for unreadable photos."""
    if (spec or "").partition(":")[0] in BASELINES:
        baseline: Any = adapter(spec, device=setup.device)
        if not hasattr(baseline, "similar"):
            raise AnytagError(f"{spec} cannot score sentences; leave it out of --task retrieval")
        return baseline, lambda photos, texts: baseline.similar(photos, texts, report=report)
    retriever = Retriever.load(spec, device=setup.device)
    ours = TaggerAdapter(retriever.tagger)

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
