"""Trains the alignment heads: contrast against a momentum queue, match with hard negatives.

Both as in ALBEF (Li et al. 2021, sections 3.2 and 3.3), which Tag2Text builds its alignment on (section 3.2).
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anytag.errors import ModelError
from anytag.torch.nn.alignment_head import AlignmentHead
from anytag.torch.nn.bert_layers import HIDDEN
from anytag.torch.nn.network import TagNetwork
from anytag.torch.training.batch import Batch
from anytag.torch.training.distributed import gather


@dataclass
class Read:
    """An encoded batch: unit vectors N×E, and the keys that texts attend to."""

    photos: Tensor
    texts: Tensor
    seen: Tensor


def read_pairs(
    head: AlignmentHead, tokens: Tensor, pooled: Tensor, tags: Tensor | None, text_ids: Tensor
) -> Read:
    """Pairs of encoded photo (N×T×D, N×D), its encoded tags N×S×H, and text N×L."""
    return Read(head.embed_photos(pooled, tags), head.embed_texts(text_ids), head.cross_memory(tokens, tags))


class Aligner(nn.Module):
    """What the momentum encoder copies: image encoder, alignment heads, and the caption head's tag encoder.

    Raises:
        ModelError: the network has no alignment heads.
    """

    def __init__(self, network: TagNetwork) -> None:
        super().__init__()
        if network.alignment is None:
            raise ModelError("this network has no alignment heads; set `alignment` in its configuration")
        self.encoder, self.head, self.captions = network.encoder, network.alignment, network.captions

    def forward(self, batch: Batch) -> Read:
        tokens, pooled = self.encoder(batch.pixels)
        tags = None
        if self.captions is not None and batch.tag_ids is not None and batch.tag_mask is not None:
            tags = self.captions.encode_tags(batch.tag_ids, batch.tag_mask, tokens)
        return read_pairs(self.head, tokens, pooled, tags, batch.need("caption_ids"))


class Momentum(nn.Module):
    """Momentum encoder and queue (MoCo, ALBEF): an EMA of the model, and its latest embeddings as negatives.

    Args:
        model: what is trained.
        length: Q, pairs in the queue.
        decay: of the moving average, at each step.
    """

    photos: Tensor
    texts: Tensor
    pair_ids: Tensor
    place: Tensor

    def __init__(self, model: Aligner, *, length: int = 65536, decay: float = 0.995) -> None:
        super().__init__()
        self.copy = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay, space = decay, model.head.config.space
        self.register_buffer("photos", torch.zeros(length, space))
        self.register_buffer("texts", torch.zeros(length, space))
        self.register_buffer("pair_ids", torch.full((length, 2), -1))  # nobody's
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    def train(self, mode: bool = True) -> Self:
        """The momentum encoder has no dropout."""
        super().train(mode)
        self.copy.eval()
        return self

    @torch.no_grad()
    def follow(self, model: Aligner) -> None:
        """One step towards the model."""
        for slow, fast in zip(self.copy.parameters(), model.parameters(), strict=True):
            slow.lerp_(fast, 1 - self.decay)
        for slow_buffer, buffer in zip(self.copy.buffers(), model.buffers(), strict=True):
            slow_buffer.copy_(buffer)

    @torch.no_grad()
    def enqueue(self, photos: Tensor, texts: Tensor, pair_ids: Tensor) -> None:
        """The oldest make room for N pairs, which are Q at most: unit vectors N×E of both, and N×2."""
        places = (self.place + torch.arange(len(pair_ids), device=pair_ids.device)) % len(self.pair_ids)
        self.photos[places], self.texts[places], self.pair_ids[places] = photos, texts, pair_ids
        self.place.copy_((self.place + len(pair_ids)) % len(self.pair_ids))


def alignment_losses(
    head: AlignmentHead,
    read: Read,
    momentum: Momentum,
    batch: Batch,
    *,
    alpha: float | Tensor = 0.4,
) -> dict[str, Tensor]:
    """ "contrast" and "match", means over photos; the pairs of all processes enter the queue.

    Call `momentum.follow(model)` after each step of the optimizer.

    Args:
        read: what the model that is trained reads in the batch.
        alpha: ALBEF's alpha, the weight of the momentum encoder's soft targets; a scalar, or N.
    """
    ids = batch.need("pair_ids")
    share = alpha[:, None] if isinstance(alpha, Tensor) else alpha
    with torch.no_grad():
        slow = momentum.copy(batch)
        everyones = gather(slow.photos), gather(slow.texts), gather(ids)
    contrast = _contrast(head.scale, read, slow, momentum, ids, everyones=everyones, alpha=share)
    momentum.enqueue(*everyones)
    return {"contrast": contrast, "match": _match(head, read, batch)}


def _contrast(
    scale: Tensor, read: Read, slow: Read, momentum: Momentum, pair_ids: Tensor, *,
    everyones: tuple[Tensor, Tensor, Tensor], alpha: float | Tensor,
) -> Tensor:  # fmt: skip
    """Each of N photos against the B texts of all processes and the Q of the queue, and the other way."""
    memory = momentum.photos, momentum.texts, momentum.pair_ids
    photos, texts, all_ids = (torch.cat(pair) for pair in zip(everyones, memory, strict=True))
    empty = (all_ids[:, 0] < 0) * HIDDEN  # places that hold nothing yet
    same = (pair_ids[:, None] == all_ids).any(-1)  # N×(B+Q)
    shares = (1 - alpha) * same / same.sum(1, keepdim=True)
    terms = []
    with _exactly(photos):
        for asks, slow_asks, answers in ((read.photos, slow.photos, texts), (read.texts, slow.texts, photos)):
            opinion = (scale * slow_asks @ answers.T + empty).softmax(1).detach()
            terms.append(F.cross_entropy(scale * asks @ answers.T + empty, shares + alpha * opinion))
    return torch.stack(terms).mean()


def _exactly(x: Tensor) -> AbstractContextManager[object]:
    """In float32: a bfloat16 has too few digits for cosines that are multiplied."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def _match(head: AlignmentHead, read: Read, batch: Batch) -> Tensor:
    """Each pair, each photo with a hard negative text, each text with a hard negative photo.

    The hard ones are those of this process.
    """
    alike = (head.scale * read.photos @ read.texts.T).detach().float()
    ids, pairs = batch.need("caption_ids"), batch.need("pair_ids")
    other = torch.ne(pairs[:, None], pairs).all(-1)
    texts, photos = hard_negatives(alike, other), hard_negatives(alike.T, other)
    own = torch.arange(len(other), device=other.device)
    logits = head.match(
        torch.cat([ids, ids[texts], ids]), head.project_kv(read.seen), torch.cat([own, own, photos])
    )
    target = torch.zeros_like(logits)
    target[: len(ids)] = 1
    some = other.any(1).float()  # a batch of one photo has no negatives
    weight = torch.cat([torch.ones_like(some), some, some])
    losses = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum")
    return losses / weight.sum()


def hard_negatives(alike: Tensor, other: Tensor) -> Tensor:
    """For each row of M×N scores the number of another one, drawn the likelier the more alike it is.

    Args:
        other: bool M×N, who may be drawn; any where there is nobody.
    """
    shares = alike.masked_fill(~other, HIDDEN).softmax(1)
    return torch.multinomial(shares, 1).squeeze(1)
