"""What is trained: late stages of a backbone, the queries and the decoder, and the sum of their losses."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from anytag.torch.nn.backbones import Backbone
from anytag.torch.nn.network import TagNetwork
from anytag.torch.nn.query_modules import TagQueries
from anytag.torch.training.losses import (
    alignment_loss,
    asymmetric_loss,
    contrast_loss,
    distillation_loss,
    same_texts,
    subject_loss,
)


@dataclass
class Batch:
    """One step's photos.

    Attributes:
        features: N×C×h×w, what the first trained stage expects; or N×C, the mean of what the last stage
            gives, where no stage is trained.
        memory: N×F, what the network's memory gives of them.
        belief: N×K in [0, 1], that a tag is in the photo.
        weight: N×K, how much an entry counts.
        teacher: N×1000 logits of the teacher classifier.
        captions: N×text_width, a caption's text vector each; zeros where a photo has none.
        subject: int64 N, the tag of a photo's main subject where that is all that is known; else -1.
        tags: M tags that the decoder looks at in this step (int64); the first pass sees all K.
    """

    features: Tensor
    memory: Tensor
    belief: Tensor
    weight: Tensor
    teacher: Tensor
    captions: Tensor
    subject: Tensor
    tags: Tensor


@dataclass(frozen=True)
class LossWeights:
    """How the terms add up; each is a mean over photos."""

    tag: float = 1.0
    coarse: float = 0.3
    alignment: float = 2.0
    contrast: float = 3.0
    subject: float = 3.0
    distillation: float = 2.0
    temperature: float = 1.0
    gamma_neg: float = 3.0
    clip: float = 0.05


class Student(nn.Module):
    """Network and queries, with the loss of a batch as `forward`, so that any distribution wrapper works.

    Args:
        network: whose stages before `first` are never run.
        queries: of the trained tags.
        first: the stage that cached features are for.
        trained: the first stage that is trained.
        classes: the tag (int64) of each class of the teacher.
        taught: which of the classes (int64) the teacher teaches.
        rivals: K×K bool, which tags a photo's main subject (first index) is not when it is this one.
    """

    classes: Tensor
    taught: Tensor
    rivals: Tensor

    def __init__(
        self,
        network: TagNetwork,
        queries: TagQueries,
        *,
        first: int,
        trained: int,
        classes: Tensor,
        taught: Tensor,
        rivals: Tensor,
        weights: LossWeights,
    ) -> None:
        super().__init__()
        self.network, self.queries, self.weights = network, queries, weights
        self.first, self.trained = first, trained
        self.register_buffer("classes", classes)
        self.register_buffer("taught", taught)
        self.register_buffer("rivals", rivals)
        for stage in self.network.encoder.backbone.stages[:trained]:
            stage.requires_grad_(False)
        if trained >= len(self.network.encoder.backbone.stages):
            network.encoder.projection.requires_grad_(False)  # tokens stay what they are
            if network.encoder.split:
                network.encoder.recall.requires_grad_(False)
        network.encoder.backbone.to(memory_format=torch.channels_last)  # half as fast again on a CPU

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Every term of the loss, unweighted, and their weighted sum as "loss"."""
        w = self.weights
        terms = self._pooled_terms(batch) if batch.features.ndim == 2 else self._terms(batch)
        terms["loss"] = sum((getattr(w, name) * value for name, value in terms.items()), torch.zeros(()))
        return terms

    def _pooled_terms(self, batch: Batch) -> dict[str, Tensor]:
        """What the first pass alone can learn: the decoder's tokens stay as they are."""
        pooled = self.network.encoder.pool(batch.features, batch.memory).float()
        coarse = self.network.folded.coarse(pooled, self.queries(only=1)).float()
        teacher = batch.teacher[:, self.taught]
        told = batch.captions.any(1)
        texts = batch.captions[told]
        terms = {
            "coarse": self._tag_loss(coarse, batch.belief, batch.weight),
            "subject": self._subject(coarse, batch),
            "distillation": distillation_loss(
                coarse[:, self.classes[self.taught]], teacher, temperature=self.weights.temperature
            ),
        }
        if told.any():
            logits = self.network.folded.coarse(pooled[told], self.queries.projection(texts)[:, None]).float()
            same = same_texts(texts, texts)
            terms["alignment"] = alignment_loss(logits, same)
            terms["contrast"] = contrast_loss(logits, same)
        return terms

    def _terms(self, batch: Batch) -> dict[str, Tensor]:
        network = self.network
        tokens, pooled = self.encode(batch.features, batch.memory)
        rows = self.queries(batch.tags)
        logits = network.decoder(tokens, pooled, rows[None])
        # All six texts of a tag would cost as much as the backbone.
        coarse = network.folded.coarse(pooled, self.queries(only=1))
        return {
            "tag": self._tag_loss(logits, batch.belief[:, batch.tags], batch.weight[:, batch.tags])
            * (coarse.shape[1] / len(batch.tags)),
            "coarse": self._tag_loss(coarse, batch.belief, batch.weight),
            **self._captions(tokens, pooled, batch.captions),
            "subject": (self._subject(coarse, batch) + self._subject(logits, batch, batch.tags)) / 2,
            "distillation": self._distillation(logits, coarse, batch),
        }

    def encode(self, features: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Cached features N×C×h×w and memory N×F -> tokens N×T×D, pooled N×D."""
        features = features.to(memory_format=torch.channels_last)
        return self.network.encoder.from_stage(features, self.first, memory)

    def _tag_loss(self, logits: Tensor, belief: Tensor, weight: Tensor) -> Tensor:
        loss = asymmetric_loss(logits, belief, gamma_neg=self.weights.gamma_neg, clip=self.weights.clip)
        return (loss * weight).sum() / len(logits)

    def _captions(self, tokens: Tensor, pooled: Tensor, captions: Tensor) -> dict[str, Tensor]:
        """Every photo is asked with every caption at hand; equal captions are no negatives."""
        told = captions.any(1)
        if not told.any():
            return {name: tokens.sum() * 0 for name in ("alignment", "contrast")}
        texts = captions[told]
        rows = self.queries.projection(texts)[:, None]  # B×1×D
        logits = self.network.decoder(tokens[told], pooled[told], rows[None])
        same = same_texts(texts, texts)
        first_pass = self.network.folded.coarse(pooled[told], rows)
        contrast = contrast_loss(first_pass, same) + contrast_loss(logits, same)
        return {"alignment": alignment_loss(logits, same), "contrast": contrast / 2}

    def _subject(self, logits: Tensor, batch: Batch, tags: Tensor | None = None) -> Tensor:
        """Of the photos whose main subject is known, a mean over all; `tags` are the columns of N×M."""
        tags = torch.arange(logits.shape[1], device=logits.device) if tags is None else tags
        known = batch.subject >= 0
        if not known.any():
            return logits.sum() * 0
        subject, present = batch.subject[known], batch.belief[known][:, tags] > 0.99
        rivals = self.rivals[subject][:, tags] & ~present
        loss = subject_loss(logits[known], present, subject[:, None] == tags, rivals)
        return loss.sum() / len(logits)

    def _distillation(self, logits: Tensor, coarse: Tensor, batch: Batch) -> Tensor:
        """The teacher's classes among themselves: all in the first pass, those looked at in the decoder."""
        teacher, tags = batch.teacher[:, self.taught], self.classes[self.taught]
        temperature = self.weights.temperature
        first_pass = distillation_loss(coarse[:, tags], teacher, temperature=temperature)
        position = torch.full((coarse.shape[1],), -1, device=tags.device)
        position[batch.tags] = torch.arange(len(batch.tags), device=tags.device)
        seen = (position[tags] >= 0).nonzero().squeeze(1)
        decoded = distillation_loss(
            logits[:, position[tags[seen]]], teacher[:, seen], temperature=temperature
        )
        return (first_pass + decoded) / 2


def fold_norms(backbone: Backbone) -> None:
    """Folds every batch norm into its convolution: only convolutions are trained and served."""
    for module in list(backbone.modules()):
        children = list(module.named_children())
        for (_, conv), (name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                _fold(conv, norm)
                setattr(module, name, getattr(norm, "act", nn.Identity()))


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    if norm.running_mean is None or norm.running_var is None:
        return
    with torch.no_grad():
        factor = norm.weight / (norm.running_var + norm.eps).sqrt()
        conv.weight.mul_(factor[:, None, None, None])
        bias = norm.bias - norm.running_mean * factor
        conv.bias = nn.Parameter(bias if conv.bias is None else bias + conv.bias * factor)
