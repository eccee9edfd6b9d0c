"""Model adapters, which score names for photos, for anytag models and baselines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import numpy as np

from anytag._optional import needs
from anytag._typing import Bytes, Doubles, Floats
from anytag.errors import AnytagError
from anytag.evaluation.tasks import TagTask
from anytag.images import load
from anytag.progress import SILENT, Reporter, watched
from anytag.queries.build import CUSTOM_THRESHOLD
from anytag.queries.requests import CustomTag
from anytag.runtime.base import Device
from anytag.tagger import Tagger
from anytag.vocabulary import Tag

T = TypeVar("T")

PromptSet = Literal["one", "ensemble"]
ZERO_SHOT = ("open_clip", "transformers")
BASELINES = (*ZERO_SHOT, "imagenet")


@dataclass(frozen=True, eq=False)
class Predictions:
    """Scores of N photos and K tags by one model.

    Attributes:
        scores: float32 N×K; undefined for photos that cannot be read.
        failed: reasons, by index of the photo.
        thresholds: K; None for a model that only ranks.
        trained: for each tag, whether a trained query was used; None if not applicable.
    """

    scores: Floats
    failed: dict[int, str]
    thresholds: Doubles | None = None
    trained: tuple[bool, ...] | None = None

    @property
    def are_probabilities(self) -> bool:
        """Whether calibration can be evaluated."""
        return self.thresholds is not None


class ModelAdapter(Protocol):
    """A model that can be evaluated; the optional attribute `trained_on` describes its training data."""

    @property
    def name(self) -> str: ...

    def predict(self, task: TagTask, *, report: Reporter = SILENT) -> Predictions: ...


class TaggerAdapter:
    """An anytag model, used through the public API."""

    def __init__(self, tagger: Tagger, *, name: str | None = None) -> None:
        self.tagger = tagger
        self.name = name or tagger.card.name
        self.trained_on = tagger.card.training_data

    def predict(self, task: TagTask, *, report: Reporter = SILENT) -> Predictions:
        """Match tags with the vocabulary by id, then by name; score others from their words."""
        trained_tags = [self._known(task, column) for column in range(len(task.tags))]
        by_id = task.ids is not None and all(trained_tags)
        keys = (
            [tag.id for tag in trained_tags if tag]
            if by_id
            else [custom_tag.name for custom_tag in task.tags]
        )
        columns: dict[str, list[int]] = {}
        for column, key in enumerate(keys):
            columns.setdefault(key, []).append(column)
        tags = [
            CustomTag(tag.name) if found else tag for tag, found in zip(task.tags, trained_tags, strict=True)
        ]
        results = self.tagger.tag_many(task.photos, None if by_id else _unique(tags), threshold=0)
        scores, failed = np.zeros(task.present.shape, np.float32), {}
        for number, found in enumerate(watched(results, report, total=len(task.photos), what=self.name)):
            if found.error:
                failed[number] = found.error.message
            for tag in found.tags:
                scores[number, columns.get(tag.id if by_id else tag.name, [])] = tag.score
        thresholds = np.array([tag.threshold if tag else CUSTOM_THRESHOLD for tag in trained_tags])
        if self.tagger.card.strict:  # scores must exceed the threshold
            thresholds = np.nextafter(thresholds.astype(np.float32), np.float32(2)).astype(np.float64)
        return Predictions(scores, failed, thresholds, tuple(tag is not None for tag in trained_tags))

    def _known(self, task: TagTask, column: int) -> Tag | None:
        vocabulary = self.tagger.vocabulary
        if task.ids is not None and task.ids[column] in vocabulary:
            return vocabulary[task.ids[column]]
        return vocabulary.find(task.tags[column].name)


def _unique(tags: Sequence[CustomTag]) -> list[CustomTag]:
    """Remove duplicate names, which benchmarks may contain."""
    return list({tag.name: tag for tag in tags}.values())


def shared(task: TagTask, adapters: Iterable[TaggerAdapter]) -> list[int]:
    """Columns of the tags that all these models were trained with, for a fair comparison."""
    return [column for column in range(len(task.tags)) if all(one._known(task, column) for one in adapters)]


def read_photos(paths: Sequence[Path], *, min_side: int) -> tuple[list[Bytes], dict[int, str]]:
    """Readable photos, upright RGB uint8 H×W×3, and by index the reasons for the others."""
    pixels, failed = [], {}
    for number, path in enumerate(paths):
        try:
            pixels.append(load(path, min_side=min_side).pixels)
        except AnytagError as error:
            failed[number] = str(error)
    return pixels, failed


def adapter(spec: str | None, *, device: Device = "auto", prompts: PromptSet = "one") -> ModelAdapter:
    """Load a baseline, or an anytag model by name or folder; None is the embedded model.

    Args:
        spec: "open_clip:NAME@WEIGHTS", "transformers:NAME", "imagenet:BACKBONE", or a model.
        prompts: for a name, with models of open_clip and transformers.

    Raises:
        AnytagError: there is no such model.
        MissingExtraError: its packages are not installed.
    """
    kind, _, name = (spec or "").partition(":")
    if kind not in BASELINES:
        return TaggerAdapter(Tagger.load(spec, device=device))
    if not name:
        raise AnytagError(f"the baseline {spec!r} lacks a name, as in {kind}:NAME")
    if kind == "imagenet":
        with needs(f"the baseline {spec}"):
            from anytag.torch.imagenet_baseline import ClassifierWithText
        return ClassifierWithText(name)
    from anytag.evaluation.baselines import zero_shot

    return zero_shot(kind, name, prompts=prompts)
