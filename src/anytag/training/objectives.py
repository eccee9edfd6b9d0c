"""What Tag2Text, RAM and RAM++ are trained for: one row each, of the same terms."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from anytag.errors import ModelError
from anytag.nn.network import TagNetwork

from .losses import asymmetric_loss, caption_labels, caption_loss


@dataclass(frozen=True)
class Matching:
    """How alignment heads are trained (ALBEF, section 3 and its configuration).

    Attributes:
        queue: pairs that are remembered as negatives; as many as a step has, at least.
        decay: share of the slow copy that stays, at each step.
        trust: share of the contrast's targets that is the slow copy's own opinion.
        unguided: share of the photos whose tags are not told in a step. Tags come from the very caption that
            is to be found: always told, they would be all that is learned.
    """

    queue: int = 65536
    decay: float = 0.995
    trust: float = 0.4
    unguided: float = 0.3


@dataclass(frozen=True)
class Objective:
    """The terms of a family, added up as published (Tag2Text, section 3.3; RAM, 3; RAM++, 3.4).

    Attributes:
        captions: tags and photo -> the caption's wordpieces. The tag term is then scaled to this one's size.
        distils: the pooled vector is drawn to CLIP's.
        aligns: the captions' text vectors are queries, and each photo wants its own alone.
        matching: contrast and match of photos with captions, for alignment heads (Tag2Text, section 3.2).
        gamma_neg: of the tags' asymmetric loss.
        alignment_gamma_neg: of the alignment's.
    """

    captions: bool = False
    distils: bool = False
    aligns: bool = False
    matching: Matching | None = None
    gamma_neg: float = 7.0
    alignment_gamma_neg: float = 4.0

    @property
    def reads(self) -> bool:
        """Whether captions are read as wordpieces."""
        return self.captions or self.matching is not None


OBJECTIVES = {
    "tag2text": Objective(captions=True),
    "ram": Objective(captions=True, distils=True),
    "ram-plus": Objective(distils=True, aligns=True),
}
# The first wordpieces of a caption that are not learned: as many as the prompt has, which no caption holds.
_UNLEARNED = 4


@dataclass
class FamilyBatch:
    """N photos; what a family's objective does not need may be left out.

    Attributes:
        pixels: float32 N×3×S×S, normalised.
        tags: N×K, 1 where a tag is in the photo.
        tag_ids, tag_mask: N×S, wordpieces of the tags' text.
        caption_ids: N×L, wordpieces of a caption of each photo.
        teacher: N×D, the photo as CLIP sees it.
        captions: N×D, unit text vector of a caption of each photo.
    """

    pixels: Tensor
    tags: Tensor
    tag_ids: Tensor | None = None
    tag_mask: Tensor | None = None
    caption_ids: Tensor | None = None
    teacher: Tensor | None = None
    captions: Tensor | None = None


def family_losses(
    network: TagNetwork, rows: Tensor, batch: FamilyBatch, objective: Objective
) -> dict[str, Tensor]:
    """Every term and their sum, "loss". Sums over tags and over photos, as published.

    Args:
        rows: 1×K×P×R, the trained tags' queries.

    Raises:
        ModelError: the network or the batch lacks what the objective needs.
    """
    tokens, pooled = network.encoder.from_stage(batch.pixels, 0)
    logits = network.decoder(tokens, pooled, rows)
    terms = {"tag": asymmetric_loss(logits, batch.tags, gamma_neg=objective.gamma_neg).sum()}
    if objective.captions:
        terms["caption"] = _caption_term(network, tokens, batch)
    if objective.distils:
        terms["distillation"] = F.l1_loss(pooled, _given(batch.teacher, "teacher"))
    if objective.aligns:
        asked = _given(batch.captions, "captions")[None, :, None]  # 1×N×1×D
        aligned = network.decoder(tokens, pooled, asked)
        terms["alignment"] = aligned_loss(aligned, gamma_neg=objective.alignment_gamma_neg)
    return {**terms, "loss": total_loss(terms)}


def total_loss(terms: dict[str, Tensor]) -> Tensor:
    """The sum, in which tags weigh as much as captions, where there are captions."""
    tag, others = terms["tag"], [value for name, value in terms.items() if name != "tag"]
    if "caption" in terms:
        tag = tag / (tag / terms["caption"]).detach()
    return sum(others, tag)


def aligned_loss(logits: Tensor, *, gamma_neg: float) -> Tensor:
    """N photos asked with their own N captions: a sum, in which equal captions are negatives, as published.

    `losses.alignment_loss` does better: it knows equal captions and does not grow with the batch.
    """
    own = torch.eye(len(logits), device=logits.device)
    return asymmetric_loss(logits, own, gamma_neg=gamma_neg).sum()


def _caption_term(network: TagNetwork, tokens: Tensor, batch: FamilyBatch) -> Tensor:
    head = network.captions
    if head is None:
        raise ModelError("this network has no caption head; set `captions` in its configuration")
    ids = _given(batch.caption_ids, "caption_ids")
    tag_ids, tag_mask = _given(batch.tag_ids, "tag_ids"), _given(batch.tag_mask, "tag_mask")
    memory = head.remember(head.encode_tags(tag_ids, tag_mask, tokens))
    logits, _ = head.decode(ids, memory, mask=ids != 0)
    return caption_loss(logits, caption_labels(ids, unlearned=_UNLEARNED))


def _given(tensor: Tensor | None, name: str) -> Tensor:
    if tensor is None:
        raise ModelError(f"the batch lacks {name}, which this objective needs")
    return tensor
