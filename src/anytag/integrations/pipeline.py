"""A drop-in replacement for transformers' zero-shot image classification pipeline."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import TypedDict

from anytag.errors import VocabularyError, brief
from anytag.images import ImageSource, is_source
from anytag.results import TagResult
from anytag.runtime.base import Device
from anytag.tagger import Tagger


class Label(TypedDict):
    """A label and its probability."""

    score: float
    label: str


class ZeroShotPipeline:
    """Classifies photos with the interface of transformers' pipeline; create it with `pipeline`.

    Scores are independent probabilities of the labels and do not sum to 1 as CLIP's do: several labels may
    apply, or none.

    Attributes:
        tagger: scores the labels.
    """

    def __init__(self, tagger: Tagger) -> None:
        self.tagger = tagger

    def __call__(
        self,
        images: ImageSource | Iterable[ImageSource],
        candidate_labels: Sequence[str] | None = None,
        *,
        top_k: int | None = None,
        batch_size: int = 8,
    ) -> list[Label] | list[list[Label]] | Generator[list[Label], None, None]:
        """Score the labels of one or more photos, by descending score.

        Args:
            images: a photo (path, bytes, PIL image, array), a list of them, or an iterable; for an iterable
                the result is a generator.
            candidate_labels: labels to score; by default the tags of the vocabulary above their thresholds.
            top_k: maximum number of labels per photo.
            batch_size: number of photos in a batch.

        Raises:
            ImageError: a photo cannot be read.
            VocabularyError: `candidate_labels` is not a list of texts.
        """
        if isinstance(candidate_labels, str):
            raise VocabularyError(
                f"candidate_labels is {brief(candidate_labels)}: expected a list, as in ['cat', 'dog']"
            )
        if is_source(images):
            return _labels(self.tagger.tag(images, candidate_labels, top_k=top_k))  # type: ignore[arg-type]
        found = self.tagger.tag_many(
            images,  # type: ignore[arg-type]  # not a single image, which is_source has checked
            candidate_labels,
            top_k=top_k,
            batch_size=batch_size,
            on_error="raise",
        )
        labels = (_labels(one) for one in found)
        return list(labels) if isinstance(images, list | tuple) else labels


def pipeline(model: str | Path | None = None, *, device: Device = "auto") -> ZeroShotPipeline:
    """Create a pipeline; arguments and errors as for `Tagger.load`."""
    return ZeroShotPipeline(Tagger.load(model, device=device))


def _labels(found: TagResult) -> list[Label]:
    return [{"score": tag.score, "label": tag.name} for tag in found.shown]
