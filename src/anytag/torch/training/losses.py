"""Losses. Sums over tags, means over photos, so that a figure reads as "per photo"."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

UNLABELLED = -100


def asymmetric_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma_neg: float,
    gamma_pos: float = 0.0,
    clip: float = 0.05,
    floor: float = 1e-8,
    focus_learns: bool = False,
) -> Tensor:
    """Asymmetric loss of every entry (ASL; RAM++, section 3.4), for hard or soft targets.

    With p = sigmoid(x) and m = min(1 - p + clip, 1), an entry costs
    -(y log p (1-p)^gamma_pos + (1-y) log m (1-m)^gamma_neg). For targets of 0 and 1 this is the published
    loss, which is the sum of all entries.

    Args:
        logits: any shape.
        targets: the same shape, in [0, 1].
        floor: least value whose logarithm is taken.
        focus_learns: whether the focusing factors carry a gradient.

    Returns:
        the same shape, not reduced.
    """
    p = logits.sigmoid()
    absent = (1 - p + clip).clamp(max=1)
    positive = targets * p.clamp_min(floor).log()
    negative = (1 - targets) * absent.clamp_min(floor).log()
    if not focus_learns:
        p, absent = p.detach(), absent.detach()
    if gamma_pos:
        positive = positive * (1 - p) ** gamma_pos
    if gamma_neg:
        negative = negative * (1 - absent) ** gamma_neg
    return -(positive + negative)


def caption_loss(logits: Tensor, labels: Tensor, *, smoothing: float = 0.1) -> Tensor:
    """Cross-entropy of the next wordpiece, a mean over the labelled positions (Tag2Text, section 3.3).

    Args:
        logits: N×L×words.
        labels: int64 N×L, `UNLABELLED` where nothing is learned; a label is told one position before it.
        smoothing: share of the target that is spread over all words.

    Returns:
        a scalar; 0 where no position is labelled.
    """
    logits_flat, next_word = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    summed = F.cross_entropy(
        logits_flat, next_word, ignore_index=UNLABELLED, label_smoothing=smoothing, reduction="sum"
    )
    return summed / (next_word != UNLABELLED).sum().clamp_min(1)


def caption_labels(ids: Tensor, *, unlearned: int, padding: int = 0) -> Tensor:
    """Labels for `caption_loss`: the ids N×L without padding and without the first `unlearned`."""
    labels = ids.masked_fill(ids == padding, UNLABELLED)
    labels[:, :unlearned] = UNLABELLED
    return labels


def same_texts(texts: Tensor, others: Tensor) -> Tensor:
    """Unit vectors N×D and B×D -> N×B bool, where they are equal.

    Not by a product of matrices, which autocast may take in bfloat16: there a vector is unlike itself.
    """
    return (texts[:, None] * others).sum(-1) > 0.999


def alignment_loss(logits: Tensor, same: Tensor, *, gamma_neg: float = 4.0) -> Tensor:
    """Captions as queries (RAM++, section 3.2).

    Args:
        logits: N×B, of N photos and B captions.
        same: N×B bool, where they belong together.
    """
    return asymmetric_loss(logits, same.float(), gamma_neg=gamma_neg).sum() / len(logits)


def contrast_loss(logits: Tensor, same: Tensor) -> Tensor:
    """Which photo is a caption's, and which caption a photo's, among those at hand.

    Args:
        logits: N×N, of photos and their captions, in one order.
        same: N×N bool, pairs of photo and caption that are no negatives of each other.

    Returns:
        the mean of both cross-entropies.
    """
    other = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    logits = logits.masked_fill(other, -1e4)
    right = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


ALSO = 0.3
"""How much another tag of a photo counts beside its main subject."""


def subject_loss(logits: Tensor, present: Tensor, main: Tensor, rivals: Tensor) -> Tensor:
    """Softmax over what a photo's main subject may be: nothing is known of all else that is in it.

    Each tag that is said of a photo competes with the exclusive tags alone, not with the other positives.

    Args:
        logits: N×K.
        present: N×K bool, tags that are said of the photo.
        main: N×K bool, the main subject.
        rivals: N×K bool, tags that are not it.

    Returns:
        N.
    """
    most = logits.masked_fill(~rivals, -1e4).logsumexp(1, keepdim=True)
    weight = present * ALSO + main * (1 - ALSO)
    loss: Tensor = (F.softplus(most - logits) * weight).sum(1) / weight.sum(1).clamp_min(1e-6)
    return loss


def distillation_loss(logits: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Mean Kullback-Leibler divergence of a student from a classifier, among the classes given: both N×C.

    A temperature above 1 teaches the order of the unlikely classes too; its square keeps the gradients' size.
    """
    ours, teacher_log = ((x / temperature).log_softmax(-1) for x in (logits, teacher))
    return F.kl_div(ours, teacher_log, reduction="batchmean", log_target=True) * temperature**2
