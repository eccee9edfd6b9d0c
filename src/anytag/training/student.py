"""What is trained: late stages of a backbone, the queries and the decoder, and the sum of their losses."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from anytag.nn.backbones import Backbone
from anytag.nn.network import TagNetwork
from anytag.nn.queries import TagQueries

from .losses import alignment_loss, asymmetric_loss, distillation_loss, same_texts


@dataclass
class Batch:
    """One step's photos.

    Attributes:
        features: N×C×h×w, what the first trained stage expects.
        memory: N×F, what the network's memory gives of them.
        belief: N×K in [0, 1], that a tag is in the photo.
        weight: N×K, how much an entry counts.
        teacher: N×1000 logits of the teacher classifier.
        captions: N×text_width, a caption's text vector each; zeros where a photo has none.
        tags: M tags that the decoder looks at in this step (int64); the first pass sees all K.
    """

    features: Tensor
    memory: Tensor
    belief: Tensor
    weight: Tensor
    teacher: Tensor
    captions: Tensor
    tags: Tensor


@dataclass(frozen=True)
class LossWeights:
    """How the terms add up; each is a mean over photos."""

    tag: float = 1.0
    coarse: float = 0.3
    alignment: float = 5.0
    distillation: float = 15.0
    temperature: float = 3.0
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
    """

    classes: Tensor
    taught: Tensor

    def __init__(
        self,
        network: TagNetwork,
        queries: TagQueries,
        *,
        first: int,
        trained: int,
        classes: Tensor,
        taught: Tensor,
        weights: LossWeights,
    ) -> None:
        super().__init__()
        self.network, self.queries, self.weights = network, queries, weights
        self.first, self.trained = first, trained
        self.register_buffer("classes", classes)
        self.register_buffer("taught", taught)
        for stage in self.network.encoder.backbone.stages[:trained]:
            stage.requires_grad_(False)
        network.encoder.backbone.to(memory_format=torch.channels_last)  # half as fast again on a CPU

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Every term of the loss, unweighted, and their weighted sum as "loss"."""
        network, w = self.network, self.weights
        features = batch.features.to(memory_format=torch.channels_last)
        tokens, pooled = network.encoder.from_stage(features, self.first, batch.memory)
        rows = self.queries(batch.tags)
        logits = network.decoder(tokens, pooled, rows[None])
        # All six texts of a tag would cost as much as the backbone.
        coarse = network.folded.coarse(pooled, self.queries(only=2))
        terms = {
            "tag": self._tag_loss(logits, batch.belief[:, batch.tags], batch.weight[:, batch.tags])
            * (coarse.shape[1] / len(batch.tags)),
            "coarse": self._tag_loss(coarse, batch.belief, batch.weight),
            "alignment": self._alignment(tokens, pooled, batch.captions),
            "distillation": self._distillation(logits, coarse, batch),
        }
        terms["loss"] = sum((getattr(w, name) * value for name, value in terms.items()), torch.zeros(()))
        return terms

    def _tag_loss(self, logits: Tensor, belief: Tensor, weight: Tensor) -> Tensor:
        loss = asymmetric_loss(logits, belief, gamma_neg=self.weights.gamma_neg, clip=self.weights.clip)
        return (loss * weight).sum() / len(logits)

    def _alignment(self, tokens: Tensor, pooled: Tensor, captions: Tensor) -> Tensor:
        """Every photo is asked with every caption at hand; equal captions are no negatives."""
        told = captions.any(1)
        if not told.any():
            return tokens.sum() * 0
        texts = captions[told]
        rows = self.queries.projection(texts)[None, :, None]  # 1×B×1×D
        logits = self.network.decoder(tokens[told], pooled[told], rows)
        return alignment_loss(logits, same_texts(texts, texts))

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
