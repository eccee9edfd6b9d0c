"""Training samples of `mini`: cached features of views, with soft targets for all tags."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anytag._typing import Ints
from anytag.data.labels import Labeler, by_captions, label_matrix
from anytag.data.rows import Row, read_rows
from anytag.errors import AnytagError
from anytag.models.registry import EMBEDDED
from anytag.text_encoders.queries import known_vectors
from anytag.text_encoders.static import StaticTextEncoder
from anytag.torch.training.batch import Batch
from anytag.torch.training.feature_cache import FeatureCache
from anytag.torch.training.soft_labels import MIN_MENTIONS, ImageNetClasses, exclusive_subjects, may_co_occur
from anytag.vocabulary import Vocabulary

ABSENT_WEIGHT, SURE_ABSENT_WEIGHT = 0.05, 0.25
"""Weights of unlabelled tags as negatives in labelled photos; the second for tags excluded by the subject."""


@dataclass(frozen=True)
class StageFeatures:
    """Cached features of N photos with M views, in memory.

    Attributes:
        features: float16 M×C×h×w, feature maps of the frozen stages; or pooled features M×C.
        row: M, the photo of each view.
        view: M, the number of the view.
        logits: float16 N×1000, the teacher's logits of each photo.
        pooled: float16 N×F, the teacher's pooled features of each photo.
    """

    features: npt.NDArray[np.float16]
    row: Ints
    view: Ints
    logits: npt.NDArray[np.float16]
    pooled: npt.NDArray[np.float16]

    @classmethod
    def of(cls, cache: FeatureCache) -> Self:
        """Read all shards of a cache."""
        order = np.argsort(cache.array("photo"))
        views = {name: cache.array(name) for name in ("features", "row", "view")}
        return cls(**views, **{name: cache.array(name)[order] for name in ("logits", "pooled")})


def train_probe(
    pooled: npt.NDArray[np.float16],
    belief: npt.NDArray[np.float32],
    confidence: npt.NDArray[np.float32],
    *,
    epochs: int = 12,
) -> nn.Module:
    """Train a linear classifier of pooled features: a teacher for tags, and a baseline in benchmarks.

    Args:
        pooled: float16 N×F.
        belief: float32 N×K, targets in [0, 1].
        confidence: float32 N×K, weights of the targets.
    """
    x = torch.from_numpy(pooled.astype(np.float32))
    mean, std = x.mean(0), x.std(0).clamp_min(1e-4)
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(x.shape[1], belief.shape[1])
    nn.init.zeros_(linear.weight)  # not random: the result must be the same in every process and resumed run
    nn.init.constant_(linear.bias, -4.0)
    optimizer = torch.optim.AdamW(linear.parameters(), lr=2e-3, weight_decay=0.02)
    steps = epochs * max(1, len(x) // 256)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    y, w = torch.from_numpy(belief), torch.from_numpy(confidence)
    for _ in range(epochs):
        for at in torch.split(torch.randperm(len(x), generator=generator), 256):
            logits = linear((x[at] - mean) / std)
            loss = F.binary_cross_entropy_with_logits(logits, y[at], w[at], reduction="sum") / len(at)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    folded = nn.Linear(x.shape[1], belief.shape[1])
    with torch.no_grad():
        folded.weight.copy_(linear.weight / std)
        folded.bias.copy_(linear.bias - (linear.weight / std) @ mean)
    return folded


class TagSamples:
    """Views of photos with soft targets for all tags.

    Args:
        rows: path of rows.jsonl.
        cache: cached features of these rows.
        vocabulary: the tags.
        classes: mapping of ImageNet's classes to tags.
        encoder: text encoder of captions.
        sampled: number of tags sampled per step; 0: all.
        held_out: columns of tags without supervision.
        sources: comma-separated sources to train on; empty: all.
    """

    def __init__(
        self,
        rows: Path,
        cache: StageFeatures,
        *,
        vocabulary: Vocabulary,
        classes: ImageNetClasses,
        encoder: StaticTextEncoder,
        sampled: int = 0,
        held_out: Ints | None = None,
        sources: str = "",
    ) -> None:
        self.root, self.sampled = rows.parent, sampled
        self.rows: list[Row] = read_rows(rows)
        if len(cache.logits) != len(self.rows):
            raise AnytagError(
                f"{rows} has {len(self.rows)} rows, but the cache has {len(cache.logits)} photos: give the "
                "rows of the cache, or another cache"
            )
        self.cache, self.vocabulary, self.classes = cache, vocabulary, classes
        self.labeler = Labeler(vocabulary)
        labels = label_matrix(self.rows, self.labeler, silence=by_captions, fewest=MIN_MENTIONS)
        self.present, self.trust = labels.present, labels.weight
        self.split = np.array([row.split for row in self.rows])
        self.source = np.array([row.source for row in self.rows])
        if unknown := set(filter(None, sources.split(","))) - set(self.source.tolist()):
            raise AnytagError(
                f"{rows}: no row is of the source {sorted(unknown)[0]!r}; features.sources= can be "
                f"{', '.join(sorted(set(self.source.tolist())))}"
            )
        wanted = np.isin(self.source, sources.split(",")) if sources else np.ones(len(self.rows), dtype=bool)
        self.views = np.flatnonzero(((self.split == "train") & wanted)[cache.row])
        self.held_out = held_out
        self._soft_targets()
        self._captions(encoder)

    @classmethod
    def read(
        cls,
        rows: Path,
        cache: StageFeatures,
        folder: Path,
        *,
        sampled: int = 0,
        held_out: Ints | None = None,
        sources: str = "",
    ) -> Self:
        """Samples with the tags of a vocabulary's folder, and the embedded model's text encoder."""
        vocabulary = Vocabulary.read(folder / "vocabulary.jsonl")
        classes = ImageNetClasses.read(folder / "imagenet.json", vocabulary)
        encoder = StaticTextEncoder.from_folder(EMBEDDED / "text")
        return cls(
            rows, cache, vocabulary=vocabulary, classes=classes, encoder=encoder, sampled=sampled,
            held_out=held_out, sources=sources,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.views)

    @property
    def key(self) -> str:
        """Hash of views and tags."""
        ids = "\n".join(self.vocabulary.ids)
        return hashlib.sha256(self.views.tobytes() + ids.encode()).hexdigest()

    def _soft_targets(self) -> None:
        """Prepare soft targets: a teacher scores tags that captions do not mention.

        In photos with labels but no captions its scores are halved: labels name the main subject only, so
        unlabelled tags are uncertain, and a teacher that was trained on captioned photos is often wrong.
        Its scores of actions, which it confuses with scenes such as water, are ignored there.
        """
        train = np.flatnonzero(self.split == "train")
        self.position = np.full(len(self.rows), -1)
        self.position[train] = np.arange(len(train))
        captioned = np.array([bool(row.captions) for row in self.rows])
        self.mentioned = self.present[captioned & (self.split == "train")].sum(0) >= MIN_MENTIONS
        self.captioned = captioned
        self.rivals, self.co_occurring = (
            exclusive_subjects(self.vocabulary),
            self.mentioned & may_co_occur(self.vocabulary),
        )
        self.is_action = np.array([tag.kind == "action" for tag in self.vocabulary])
        self.subject = np.array([self._subject_of(row) for row in self.rows])
        self.teacher_scores: npt.NDArray[np.uint8] | None = None

    def _subject_of(self, row: Row) -> int:
        """Column of the first tag of a row without captions, its main subject; -1 if there is none."""
        keys = () if row.captions else map(self.labeler.label, row.tags)
        subject = next((self.labeler.index[key] for key in keys if key is not None), -1)
        held_out = self.held_out is not None and subject in set(self.held_out.tolist())
        return -1 if held_out else subject

    def train_probes(self) -> None:
        """Use a linear classifier of the teacher's pooled features as the teacher."""
        train = np.flatnonzero(self.split == "train")
        confidence = np.divide(self.trust[train], 100, dtype=np.float32)
        present = self.present[train].astype(np.float32)
        pooled = self.cache.pooled[train]
        probe = train_probe(pooled, present, confidence)
        with torch.no_grad():
            scores = probe(tensor_of(pooled)).sigmoid().numpy()
        scores[:, ~self.mentioned] = 0  # tags that captions never mention have no certain negatives
        self.set_teacher(scores)

    def set_teacher(self, scores: npt.NDArray[np.floating]) -> None:
        """Set a teacher's probabilities for the training photos, N×K in the order of the rows."""
        self.teacher_scores = np.round(scores * 200).astype(np.uint8)

    def soft_targets(self, photos: Ints) -> tuple[Tensor, Tensor]:
        """Targets and weights of all tags for some training photos: N×K both."""
        confidence, present = tensor_of(self.trust[photos]) / 100, tensor_of(self.present[photos])
        at = self.position[photos]
        guess = (
            torch.zeros_like(present)
            if self.teacher_scores is None
            else tensor_of(self.teacher_scores[at]) / 200
        )
        captioned = torch.from_numpy(self.captioned[photos])[:, None]
        subject = self.subject[photos]
        sure = torch.from_numpy(self.rivals[subject] & ~self.co_occurring & (subject >= 0)[:, None])
        guess = torch.where(
            captioned, guess, torch.where(sure | torch.from_numpy(self.is_action), 0.0, guess / 2)
        )
        belief = confidence * present + (1 - confidence) * guess
        classes = self.classes.soft_targets(self.cache.logits[photos].astype(np.float32), present.shape[1])
        belief = torch.maximum(belief, torch.from_numpy(classes) * (1 - confidence))
        silent = torch.where(sure, SURE_ABSENT_WEIGHT, ABSENT_WEIGHT)
        weight = torch.where(captioned, 0.4 + 0.6 * confidence, torch.where(confidence > 0.99, 1.0, silent))
        if self.held_out is not None:
            weight[:, self.held_out] = 0
        return belief, weight

    def _captions(self, encoder: StaticTextEncoder) -> None:
        """Encode all training captions, in float16; `caption_range` has the range of each photo."""
        texts: list[str] = []
        self.caption_range = np.zeros((len(self.rows), 2), dtype=np.int64)
        for number, row in enumerate(self.rows):
            useful = [c for c in row.captions if self._is_useful(c)] if row.split == "train" else []
            self.caption_range[number] = (len(texts), len(texts) + len(useful))
            texts.extend(useful)
        # Captions without a known word have zero vectors, which are not used as queries.
        self.caption_vectors = known_vectors(texts, encoder).astype(np.float16)

    def _is_useful(self, caption: str) -> bool:
        """Whether a caption can be a query: at least three words, and no held-out tag."""
        if len(caption.split()) < 3 or not any(map(str.isalpha, caption)):
            return False
        return self.held_out is None or not self.labeler.caption(caption) & set(self.held_out.tolist())

    def order(self, draw: np.random.Generator, batch_size: int) -> Ints:
        """Each view once in random order: steps×batch_size."""
        steps = len(self.views) // batch_size
        shuffled: Ints = draw.permutation(self.views)[: steps * batch_size]
        return shuffled.reshape(steps, batch_size)

    def batch(self, numbers: Ints, *, draw: np.random.Generator) -> Batch:
        """The batch of some views, with a caption of each photo and sampled tags."""
        views = np.sort(numbers)
        photos = self.cache.row[views].astype(np.int64)
        belief, weight = self.soft_targets(photos)
        subject = self.subject[photos]
        vectors = np.zeros((len(photos), self.caption_vectors.shape[1]), dtype=np.float32)
        for number, (first, last) in enumerate(self.caption_range[photos]):
            if last > first:
                vectors[number] = self.caption_vectors[draw.integers(first, last)]
        columns = np.union1d(
            draw.permutation(len(self.vocabulary))[: self.sampled or None], subject[subject >= 0]
        )
        return Batch(
            features=tensor_of(self.cache.features[views]),
            tags=belief,
            weight=weight,
            teacher=tensor_of(self.cache.logits[photos]),
            texts=tensor_of(vectors),
            subject=torch.from_numpy(subject),
            columns=torch.from_numpy(columns),
        )


def tensor_of(array: npt.NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))
