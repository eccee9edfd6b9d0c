"""The shape of transformers' zero-shot image classification: code that has such a pipeline needs one line."""

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
    """A label and how likely it is in the photo."""

    score: float
    label: str


class ZeroShotPipeline:
    """Labels of photos as transformers' pipeline gives them; make one with `pipeline`.

    Scores are probabilities of each label for itself, and do not add up to 1 as CLIP's do: several labels
    may be right, or none.

    Attributes:
        tagger: what scores.
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
        """The labels of one photo, or of each of several, by falling score.

        Args:
            images: a photo (path, bytes, PIL image, array), a list of them, or what yields them: then the
                answer is a generator, too.
            candidate_labels: labels to score; by default the tags of the vocabulary that are in the photo.
            top_k: at most so many.
            batch_size: photos that go through the network together.

        Raises:
            ImageError: a photo cannot be read.
            VocabularyError: `candidate_labels` is no list of texts.
        """
        if isinstance(candidate_labels, str):
            raise VocabularyError(
                f"candidate_labels is {brief(candidate_labels)}: expected a list, as in ['cat', 'dog']"
            )
        if is_source(images):
            return _labels(self.tagger.tag(images, candidate_labels, top_k=top_k))  # type: ignore[arg-type]
        found = self.tagger.tag_many(
            images,  # type: ignore[arg-type]  # not one image: is_source says
            candidate_labels,
            top_k=top_k,
            batch_size=batch_size,
            on_error="raise",
        )
        labels = (_labels(one) for one in found)
        return list(labels) if isinstance(images, list | tuple) else labels


def pipeline(model: str | Path | None = None, *, device: Device = "auto") -> ZeroShotPipeline:
    """A pipeline with a model; arguments and errors as for `Tagger.load`."""
    return ZeroShotPipeline(Tagger.load(model, device=device))


def _labels(found: TagResult) -> list[Label]:
    return [{"score": tag.score, "label": tag.name} for tag in found.shown]
