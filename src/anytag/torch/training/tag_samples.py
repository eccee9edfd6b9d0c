"""Views of photos as frozen stages see them, with soft targets for all tags: what `mini` learns from."""

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

SILENCE, SURE_SILENCE = 0.05, 0.25
"""How much it counts that labels do not name a tag; and one that photos of their subject hardly show."""


@dataclass(frozen=True)
class StageFeatures:
    """What the frozen stages of `mini` make of photos, in memory.

    Attributes:
        features: float16 M×C×h×w, one a view; or M×C.
        memory: float16 M×F, what the frozen network's late stages make of it.
        row: M, the photo of each view.
        view: M, its number.
        logits: float16 N×1000 by photo, the teacher's.
        pooled: float16 N×F by photo, the teacher's features.
    """

    features: npt.NDArray[np.float16]
    memory: npt.NDArray[np.float16]
    row: Ints
    view: Ints
    logits: npt.NDArray[np.float16]
    pooled: npt.NDArray[np.float16]

    @classmethod
    def of(cls, cache: FeatureCache) -> Self:
        """Reads every shard."""
        order = np.argsort(cache.whole("photo"))
        views = {name: cache.whole(name) for name in ("features", "memory", "row", "view")}
        return cls(**views, **{name: cache.whole(name)[order] for name in ("logits", "pooled")})


def train_probe(
    pooled: npt.NDArray[np.float16],
    belief: npt.NDArray[np.float32],
    confidence: npt.NDArray[np.float32],
    *,
    epochs: int = 12,
) -> nn.Module:
    """A linear classifier, pooled features -> logits: the tag teacher, and a baseline in benchmarks."""
    x = torch.from_numpy(pooled.astype(np.float32))
    mean, std = x.mean(0), x.std(0).clamp_min(1e-4)
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(x.shape[1], belief.shape[1])
    nn.init.zeros_(linear.weight)  # not at random: every process and every resumed run must hear the same
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
        cache: of these rows.
        vocabulary: the tags.
        classes: how ImageNet's classes are tags.
        encoder: of captions.
        sampled: tags that a step draws.
        held_out: columns that get no supervision at all.
        sources: names of the sources to train on, comma-separated; empty means all.
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
                f"{rows}: {len(self.rows)} rows, but the cache is of {len(cache.logits)} photos"
            )
        self.cache, self.vocabulary, self.classes = cache, vocabulary, classes
        self.labeler = Labeler(vocabulary)
        labels = label_matrix(self.rows, self.labeler, silence=by_captions, fewest=MIN_MENTIONS)
        self.present, self.trust = labels.present, labels.weight
        self.split = np.array([row.split for row in self.rows])
        self.source = np.array([row.source for row in self.rows])
        if unknown := set(filter(None, sources.split(","))) - set(self.source.tolist()):
            raise AnytagError(
                f"{rows}: no row is of the source {sorted(unknown)[0]!r}; give features.sources= some of "
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
        """With the tags of a vocabulary's folder, and the embedded model's text encoder."""
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
        """Of the views and the tags."""
        ids = "\n".join(self.vocabulary.ids)
        return hashlib.sha256(self.views.tobytes() + ids.encode()).hexdigest()

    def _soft_targets(self) -> None:
        """Where people were silent, a teacher speaks; of photos with labels alone it is half believed.

        Labels name what a photo is of. That nothing else is named says little, and a teacher that knows
        ordinary photos alone is often wrong there, so both count little; of what somebody does in it, which
        the teacher sees in any water, it is not believed at all.
        """
        train = np.flatnonzero(self.split == "train")
        self.position = np.full(len(self.rows), -1)
        self.position[train] = np.arange(len(train))
        captioned = np.array([bool(row.captions) for row in self.rows])
        self.named = self.present[captioned & (self.split == "train")].sum(0) >= MIN_MENTIONS
        self.told = captioned
        self.rivals, self.around = (
            exclusive_subjects(self.vocabulary),
            self.named & may_co_occur(self.vocabulary),
        )
        self.done = np.array([tag.kind == "action" for tag in self.vocabulary])
        self.subject = np.array([self._subject_of(row) for row in self.rows])
        self.guess: npt.NDArray[np.uint8] | None = None

    def _subject_of(self, row: Row) -> int:
        """The first tag of a row without captions, which is what its photo is of."""
        keys = () if row.captions else map(self.labeler.label, row.tags)
        subject = next((self.labeler.index[key] for key in keys if key is not None), -1)
        held_out = self.held_out is not None and subject in set(self.held_out.tolist())
        return -1 if held_out else subject

    def learn_probes(self) -> None:
        """Two linear classifiers of frozen features are the teacher: two are right more often than one."""
        train = np.flatnonzero(self.split == "train")
        confidence = np.divide(self.trust[train], 100, dtype=np.float32)
        present = self.present[train].astype(np.float32)
        _, first = np.unique(self.cache.row, return_index=True)  # a view of each photo
        seen = (self.cache.pooled[train], self.cache.memory[first[train]])
        probes = [train_probe(features, present, confidence) for features in seen]
        with torch.no_grad():
            logits = [probe(tensor_of(features)) for probe, features in zip(probes, seen, strict=True)]
            guess = torch.stack(logits).mean(0).sigmoid().numpy()
        guess[:, ~self.named] = 0  # of tags that only labels name, the probe has seen no photo without
        self.teach(guess)

    def teach(self, guess: npt.NDArray[np.floating]) -> None:
        """What a teacher believes of the training photos: N×K in [0, 1], photos in the order of the rows."""
        self.guess = np.round(guess * 200).astype(np.uint8)

    def soft_targets(self, photos: Ints) -> tuple[Tensor, Tensor]:
        """Belief and weight of every tag of some training photos: N×K both."""
        confidence, present = tensor_of(self.trust[photos]) / 100, tensor_of(self.present[photos])
        at = self.position[photos]
        guess = torch.zeros_like(present) if self.guess is None else tensor_of(self.guess[at]) / 200
        captioned = torch.from_numpy(self.told[photos])[:, None]
        subject = self.subject[photos]
        sure = torch.from_numpy(self.rivals[subject] & ~self.around & (subject >= 0)[:, None])
        guess = torch.where(captioned, guess, torch.where(sure | torch.from_numpy(self.done), 0.0, guess / 2))
        belief = confidence * present + (1 - confidence) * guess
        classes = self.classes.soft_targets(self.cache.logits[photos].astype(np.float32), present.shape[1])
        belief = torch.maximum(belief, torch.from_numpy(classes) * (1 - confidence))
        silent = torch.where(sure, SURE_SILENCE, SILENCE)
        weight = torch.where(captioned, 0.4 + 0.6 * confidence, torch.where(confidence > 0.99, 1.0, silent))
        if self.held_out is not None:
            weight[:, self.held_out] = 0
        return belief, weight

    def _captions(self, encoder: StaticTextEncoder) -> None:
        """Text vectors of all training captions: float16, with the range of each photo."""
        texts: list[str] = []
        self.caption_range = np.zeros((len(self.rows), 2), dtype=np.int64)
        for number, row in enumerate(self.rows):
            useful = [c for c in row.captions if self._is_useful(c)] if row.split == "train" else []
            self.caption_range[number] = (len(texts), len(texts) + len(useful))
            texts.extend(useful)
        self.caption_vectors = known_vectors(texts, encoder).astype(np.float16)  # zeros: no query

    def _is_useful(self, caption: str) -> bool:
        """Whether a caption can be a query: more than two words, none of them held out."""
        if len(caption.split()) < 3 or not any(map(str.isalpha, caption)):
            return False
        return self.held_out is None or not self.labeler.caption(caption) & set(self.held_out.tolist())

    def order(self, draw: np.random.Generator, batch_size: int) -> Ints:
        """Each view once, at random."""
        steps = len(self.views) // batch_size
        shuffled: Ints = draw.permutation(self.views)[: steps * batch_size]
        return shuffled.reshape(steps, batch_size)

    def batch(self, numbers: Ints, *, draw: np.random.Generator) -> Batch:
        """Some views, with a caption of each photo and the tags that this step looks at."""
        views = np.sort(numbers)
        photos = self.cache.row[views].astype(np.int64)
        belief, weight = self.soft_targets(photos)
        subject = self.subject[photos]
        vectors = np.zeros((len(photos), self.caption_vectors.shape[1]), dtype=np.float32)
        for number, (first, last) in enumerate(self.caption_range[photos]):
            if last > first:
                vectors[number] = self.caption_vectors[draw.integers(first, last)]
        asked = np.union1d(
            draw.permutation(len(self.vocabulary))[: self.sampled or None], subject[subject >= 0]
        )
        return Batch(
            features=tensor_of(self.cache.features[views]),
            memory=tensor_of(self.cache.memory[views]),
            tags=belief,
            weight=weight,
            teacher=tensor_of(self.cache.logits[photos]),
            texts=tensor_of(vectors),
            subject=torch.from_numpy(subject),
            columns=torch.from_numpy(asked),
        )


def tensor_of(array: npt.NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))
