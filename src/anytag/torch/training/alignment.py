"""Losses of the alignment heads: contrast with a momentum queue, matching with hard negatives.

Both follow ALBEF (Li et al. 2021, sections 3.2 and 3.3), as in Tag2Text (section 3.2).
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
from anytag.torch.nn.bert_layers import MASK_BIAS
from anytag.torch.nn.network import TagNetwork
from anytag.torch.training.batch import Batch
from anytag.torch.training.distributed import gather


@dataclass
class EncodedPairs:
    """A batch of encoded pairs.

    Attributes:
        photos, texts: unit vectors N×E.
        memory: N×M×D, from `AlignmentHead.cross_memory`.
    """

    photos: Tensor
    texts: Tensor
    memory: Tensor


def encode_pairs(
    head: AlignmentHead, tokens: Tensor, pooled: Tensor, tags: Tensor | None, text_ids: Tensor
) -> EncodedPairs:
    """Encode pairs of a photo (tokens N×T×D, pooled N×D, encoded tags N×S×H) and a text N×L."""
    return EncodedPairs(
        head.embed_photos(pooled, tags), head.embed_texts(text_ids), head.cross_memory(tokens, tags)
    )


class Aligner(nn.Module):
    """The parts that the momentum encoder copies: image encoder, alignment heads, tag encoder.

    Raises:
        ModelError: the network has no alignment heads.
    """

    def __init__(self, network: TagNetwork) -> None:
        super().__init__()
        if network.alignment is None:
            raise ModelError("this network has no alignment heads; set `alignment` in its configuration")
        self.encoder, self.head, self.captions = network.encoder, network.alignment, network.captions

    def forward(self, batch: Batch) -> EncodedPairs:
        tokens, pooled = self.encoder(batch.pixels)
        tags = None
        if self.captions is not None and batch.tag_ids is not None and batch.tag_mask is not None:
            tags = self.captions.encode_tags(batch.tag_ids, batch.tag_mask, tokens)
        return encode_pairs(self.head, tokens, pooled, tags, batch.require("caption_ids"))


class Momentum(nn.Module):
    """Momentum encoder and queue (MoCo, ALBEF): an EMA of the model, and its latest embeddings as negatives.

    Args:
        model: the trained model.
        length: Q, length of the queue.
        decay: decay of the moving average per step.
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
        self.register_buffer("pair_ids", torch.full((length, 2), -1))  # -1: empty
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    def train(self, mode: bool = True) -> Self:
        """The momentum encoder has no dropout."""
        super().train(mode)
        self.copy.eval()
        return self

    @torch.no_grad()
    def update(self, model: Aligner) -> None:
        """Move the average one step towards the model."""
        for slow, fast in zip(self.copy.parameters(), model.parameters(), strict=True):
            slow.lerp_(fast, 1 - self.decay)
        for slow_buffer, buffer in zip(self.copy.buffers(), model.buffers(), strict=True):
            slow_buffer.copy_(buffer)

    @torch.no_grad()
    def enqueue(self, photos: Tensor, texts: Tensor, pair_ids: Tensor) -> None:
        """Replace the oldest entries by N ≤ Q pairs: unit vectors N×E of both, and ids N×2."""
        places = (self.place + torch.arange(len(pair_ids), device=pair_ids.device)) % len(self.pair_ids)
        self.photos[places], self.texts[places], self.pair_ids[places] = photos, texts, pair_ids
        self.place.copy_((self.place + len(pair_ids)) % len(self.pair_ids))


def alignment_losses(
    head: AlignmentHead,
    pairs: EncodedPairs,
    momentum: Momentum,
    batch: Batch,
    *,
    alpha: float | Tensor = 0.4,
) -> dict[str, Tensor]:
    """The losses "contrast" and "match", means over photos; the pairs of all processes enter the queue.

    Call `momentum.update(model)` after each step of the optimizer.

    Args:
        pairs: the batch as encoded by the trained model.
        alpha: ALBEF's alpha, the weight of the momentum encoder's soft targets; a scalar, or N.
    """
    ids = batch.require("pair_ids")
    alpha = alpha[:, None] if isinstance(alpha, Tensor) else alpha
    with torch.no_grad():
        slow = momentum.copy(batch)
        gathered = gather(slow.photos), gather(slow.texts), gather(ids)
    contrast = _contrast(head.scale, pairs, slow, momentum, ids, gathered=gathered, alpha=alpha)
    momentum.enqueue(*gathered)
    return {"contrast": contrast, "match": _match(head, pairs, batch)}


def _contrast(
    scale: Tensor, pairs: EncodedPairs, slow: EncodedPairs, momentum: Momentum, pair_ids: Tensor, *,
    gathered: tuple[Tensor, Tensor, Tensor], alpha: float | Tensor,
) -> Tensor:  # fmt: skip
    """Each of N photos against the B texts of all processes and the Q of the queue, and vice versa."""
    queue = momentum.photos, momentum.texts, momentum.pair_ids
    photos, texts, all_ids = (torch.cat(parts) for parts in zip(gathered, queue, strict=True))
    empty = (all_ids[:, 0] < 0) * MASK_BIAS  # masks empty entries of the queue
    same = (pair_ids[:, None] == all_ids).any(-1)  # N×(B+Q)
    hard_targets = (1 - alpha) * same / same.sum(1, keepdim=True)
    directions = ((pairs.photos, slow.photos, texts), (pairs.texts, slow.texts, photos))
    terms = []
    with _without_autocast(photos):
        for queries, slow_queries, keys in directions:
            soft_targets = (scale * slow_queries @ keys.T + empty).softmax(1).detach()
            logits = scale * queries @ keys.T + empty
            terms.append(F.cross_entropy(logits, hard_targets + alpha * soft_targets))
    return torch.stack(terms).mean()


def _without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Compute in float32: bfloat16 is too coarse for cosines that are scaled up."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def _match(head: AlignmentHead, pairs: EncodedPairs, batch: Batch) -> Tensor:
    """Matching loss of each pair, each photo with a hard negative text, each text with a hard negative photo.

    The negatives are from this process.
    """
    similarity = (head.scale * pairs.photos @ pairs.texts.T).detach().float()
    ids, pair_ids = batch.require("caption_ids"), batch.require("pair_ids")
    is_negative = torch.ne(pair_ids[:, None], pair_ids).all(-1)
    texts, photos = hard_negatives(similarity, is_negative), hard_negatives(similarity.T, is_negative)
    own = torch.arange(len(ids), device=ids.device)
    logits = head.match(
        torch.cat([ids, ids[texts], ids]), head.project_kv(pairs.memory), torch.cat([own, own, photos])
    )
    target = torch.zeros_like(logits)
    target[: len(ids)] = 1
    has_negative = is_negative.any(1).float()  # false in a batch of one photo
    weight = torch.cat([torch.ones_like(has_negative), has_negative, has_negative])
    losses = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum")
    return losses / weight.sum()


def hard_negatives(similarity: Tensor, is_negative: Tensor) -> Tensor:
    """Sample one negative for each row, with probability softmax(similarity): M×N -> int64 M.

    Args:
        is_negative: bool M×N, the candidates; a row without any is sampled from all.
    """
    probabilities = similarity.masked_fill(~is_negative, MASK_BIAS).softmax(1)
    return torch.multinomial(probabilities, 1).squeeze(1)
