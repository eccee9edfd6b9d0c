"""Trains the alignment heads: contrast against a momentum queue, match with hard negatives.

Both as in ALBEF (Li et al. 2021, sections 3.2 and 3.3), which Tag2Text builds its alignment on (section 3.2).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anytag.nn.alignment import AlignmentHead
from anytag.nn.caption import CaptionHead
from anytag.nn.network import ImageEncoder


@dataclass
class AlignmentBatch:
    """N pairs of photo and text.

    Attributes:
        pixels: float32 N×3×S×S, normalised.
        text_ids: int64 N×L wordpieces of a text of each photo, 0 is padding.
        whose: int64 N; equal where photos, or texts, are the same, so that they are no negatives.
        tag_ids, tag_mask: N×S, wordpieces of the tags' text; without them the photo speaks alone.
    """

    pixels: Tensor
    text_ids: Tensor
    whose: Tensor
    tag_ids: Tensor | None = None
    tag_mask: Tensor | None = None


@dataclass
class Read:
    """A batch as the model reads it: unit vectors N×E, and what texts look at."""

    photos: Tensor
    texts: Tensor
    seen: Tensor


class Aligner(nn.Module):
    """What is trained, and what its slow copy copies: image encoder, tag encoder, alignment heads."""

    def __init__(self, encoder: ImageEncoder, head: AlignmentHead, tags: CaptionHead | None = None) -> None:
        super().__init__()
        self.encoder, self.head, self.tags = encoder, head, tags

    def forward(self, batch: AlignmentBatch) -> Read:
        tokens, pooled = self.encoder.from_stage(batch.pixels, 0)
        tags = None
        if self.tags is not None and batch.tag_ids is not None and batch.tag_mask is not None:
            tags = self.tags.encode_tags(batch.tag_ids, batch.tag_mask, tokens)
        return Read(
            self.head.embed_photos(pooled, tags),
            self.head.embed_texts(batch.text_ids),
            self.head.looked_at(tokens, tags),
        )


class Momentum(nn.Module):
    """A slow copy of a model, and what it read last: many negatives that do not change from step to step.

    Args:
        model: what is trained.
        length: Q, how many pairs are remembered.
        decay: share of the copy that stays, at each step.
    """

    photos: Tensor
    texts: Tensor
    whose: Tensor
    place: Tensor

    def __init__(self, model: Aligner, *, length: int = 65536, decay: float = 0.995) -> None:
        super().__init__()
        self.copy = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay, space = decay, model.head.config.space
        self.register_buffer("photos", torch.zeros(length, space))
        self.register_buffer("texts", torch.zeros(length, space))
        self.register_buffer("whose", torch.full((length,), -1))  # nobody's
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def follow(self, model: Aligner) -> None:
        """One step towards the model."""
        for slow, fast in zip(self.copy.parameters(), model.parameters(), strict=True):
            slow.lerp_(fast, 1 - self.decay)

    @torch.no_grad()
    def remember(self, read: Read, whose: Tensor) -> None:
        """The oldest N pairs make room."""
        places = (self.place + torch.arange(len(whose), device=whose.device)) % len(self.whose)
        self.photos[places], self.texts[places], self.whose[places] = read.photos, read.texts, whose
        self.place.copy_((self.place + len(whose)) % len(self.whose))


def alignment_losses(
    model: Aligner, momentum: Momentum, batch: AlignmentBatch, *, trust: float = 0.4
) -> dict[str, Tensor]:
    """ "contrast" and "match", means over photos; the momentum's memory takes the batch in.

    Call `momentum.follow(model)` after each step of the optimizer.

    Args:
        trust: share of the contrast's targets that is the slow copy's own opinion.
    """
    read = model(batch)
    with torch.no_grad():
        slow = momentum.copy(batch)
    contrast = _contrast(model.head, read, slow, momentum, batch.whose, trust=trust)
    momentum.remember(slow, batch.whose)
    return {"contrast": contrast, "match": _match(model.head, read, batch)}


def _contrast(
    head: AlignmentHead, read: Read, slow: Read, momentum: Momentum, whose: Tensor, *, trust: float
) -> Tensor:
    known = momentum.whose >= 0
    same = whose[:, None] == torch.cat([whose, momentum.whose[known]])
    scale, terms = head.sharpness.exp(), []
    for asks, slow_asks, now, before in (
        (read.photos, slow.photos, slow.texts, momentum.texts),
        (read.texts, slow.texts, slow.photos, momentum.photos),
    ):
        answers = torch.cat([now, before[known]])
        with torch.no_grad():
            targets = same / same.sum(1, keepdim=True) * (1 - trust)
            targets = targets + trust * (scale * slow_asks @ answers.T).softmax(1)
        terms.append(F.cross_entropy(scale * asks @ answers.T, targets))
    return torch.stack(terms).mean()


def _match(head: AlignmentHead, read: Read, batch: AlignmentBatch) -> Tensor:
    """Each pair, each photo with a text that is hard to tell from its own, each text with such a photo."""
    alike = (head.sharpness.exp() * read.photos @ read.texts.T).detach()
    other = batch.whose[:, None] != batch.whose
    some = other.any(1)  # a batch of one photo has no negatives
    texts, photos = hard_negatives(alike[some], other[some]), hard_negatives(alike.T[some], other[some])
    ids, seen = batch.text_ids, read.seen
    logits = head.match(torch.cat([ids, ids[texts], ids[some]]), torch.cat([seen, seen[some], seen[photos]]))
    wanted = torch.zeros_like(logits)
    wanted[: len(ids)] = 1
    return F.binary_cross_entropy_with_logits(logits, wanted)


def hard_negatives(alike: Tensor, other: Tensor) -> Tensor:
    """For each row of M×N scores the number of another one, drawn the likelier the more alike it is.

    Args:
        other: bool M×N, who may be drawn; one in every row at least.
    """
    if not len(alike):
        return torch.zeros(0, dtype=torch.long, device=alike.device)
    shares = alike.masked_fill(~other, -torch.inf).softmax(1)
    return torch.multinomial(shares, 1).squeeze(1)
