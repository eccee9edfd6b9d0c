"""Losses. Sums over tags, means over photos, so that a figure reads as "per photo"."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def asymmetric_loss(
    logits: Tensor, targets: Tensor, *, gamma_neg: float, gamma_pos: float = 0.0, clip: float = 0.05
) -> Tensor:
    """Asymmetric loss of every entry (ASL; RAM++, section 3.4), for hard or soft targets.

    With p = sigmoid(x) and m = min(1 - p + clip, 1), an entry costs
    -(y log p (1-p)^gamma_pos + (1-y) log m (1-m)^gamma_neg). The focusing factors carry no gradient. For
    targets of 0 and 1 this is the published loss.

    Args:
        logits: any shape.
        targets: the same shape, in [0, 1].

    Returns:
        the same shape, not reduced.
    """
    p = logits.sigmoid()
    absent = (1 - p + clip).clamp(max=1)
    positive = targets * p.clamp_min(1e-8).log()
    negative = (1 - targets) * absent.clamp_min(1e-8).log()
    if gamma_pos:
        positive = positive * (1 - p.detach()) ** gamma_pos
    if gamma_neg:
        negative = negative * (1 - absent.detach()) ** gamma_neg
    return -(positive + negative)


def alignment_loss(logits: Tensor, same: Tensor, *, gamma_neg: float = 4.0) -> Tensor:
    """Captions as queries (RAM++, section 3.2).

    Args:
        logits: N×B, of N photos and B captions.
        same: N×B bool, where they belong together.
    """
    return asymmetric_loss(logits, same.float(), gamma_neg=gamma_neg).sum() / len(logits)


def distillation_loss(logits: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Mean Kullback-Leibler divergence of a student from a classifier, among the classes given: both N×C.

    A temperature above 1 teaches the order of the unlikely classes too; the square of it keeps the gradients' size.
    """
    ours, theirs = ((x / temperature).log_softmax(-1) for x in (logits, teacher))
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2
