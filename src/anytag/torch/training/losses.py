"""Losses."""

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
    focus_has_gradient: bool = False,
) -> Tensor:
    """Elementwise asymmetric loss (ASL; RAM++, section 3.4), for hard or soft targets.

    With p = sigmoid(x) and m = min(1 - p + clip, 1), the loss of an element is
    -(y log p (1-p)^gamma_pos + (1-y) log m (1-m)^gamma_neg). For targets 0 and 1, the sum of all elements is
    the published loss.

    Args:
        logits: any shape.
        targets: the same shape, in [0, 1].
        floor: lower bound of arguments of the logarithm.
        focus_has_gradient: whether gradients flow through the focusing factors.

    Returns:
        the same shape, not reduced.
    """
    p = logits.sigmoid()
    absent = (1 - p + clip).clamp(max=1)
    positive = targets * p.clamp_min(floor).log()
    negative = (1 - targets) * absent.clamp_min(floor).log()
    if not focus_has_gradient:
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
        labels: int64 N×L, `UNLABELLED` at ignored positions; logits at a position predict the next label.
        smoothing: label smoothing.

    Returns:
        a scalar; 0 if no position is labelled.
    """
    logits_flat, next_word = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    summed = F.cross_entropy(
        logits_flat, next_word, ignore_index=UNLABELLED, label_smoothing=smoothing, reduction="sum"
    )
    return summed / (next_word != UNLABELLED).sum().clamp_min(1)


def caption_labels(ids: Tensor, *, skip: int, padding: int = 0) -> Tensor:
    """Labels for `caption_loss`: ids N×L, with padding and the first `skip` positions set to `UNLABELLED`."""
    labels = ids.masked_fill(ids == padding, UNLABELLED)
    labels[:, :skip] = UNLABELLED
    return labels


def same_texts(texts: Tensor, others: Tensor) -> Tensor:
    """Which unit vectors are equal: N×D and B×D -> bool N×B.

    It does not use a matrix product, which autocast may compute in bfloat16, too coarse for this comparison.
    """
    return (texts[:, None] * others).sum(-1) > 0.999


def alignment_loss(logits: Tensor, same: Tensor, *, gamma_neg: float = 4.0) -> Tensor:
    """Asymmetric loss with captions as queries (RAM++, section 3.2).

    Args:
        logits: N×B, of N photos and B captions.
        same: bool N×B, the matching pairs.
    """
    return asymmetric_loss(logits, same.float(), gamma_neg=gamma_neg).sum() / len(logits)


def contrast_loss(logits: Tensor, same: Tensor) -> Tensor:
    """Symmetric contrastive loss (as in CLIP) over a batch of photos and their captions.

    Args:
        logits: N×N, of photos and their captions, in the same order.
        same: bool N×N, pairs that are not negatives of each other.

    Returns:
        the mean of the cross-entropies in both directions.
    """
    other = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    logits = logits.masked_fill(other, -1e4)
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


OTHER_TAG_WEIGHT = 0.3
"""Weight of a photo's other tags relative to its main subject."""


def subject_loss(logits: Tensor, present: Tensor, main: Tensor, rivals: Tensor) -> Tensor:
    """Softmax loss over possible main subjects, for photos of which only the main subject is known.

    Each labelled tag competes with the exclusive tags only, not with other labelled tags.

    Args:
        logits: N×K.
        present: bool N×K, labelled tags.
        main: bool N×K, the main subject.
        rivals: bool N×K, tags that the main subject excludes.

    Returns:
        N.
    """
    rival_logit = logits.masked_fill(~rivals, -1e4).logsumexp(1, keepdim=True)
    weight = present * OTHER_TAG_WEIGHT + main * (1 - OTHER_TAG_WEIGHT)
    loss: Tensor = (F.softplus(rival_logit - logits) * weight).sum(1) / weight.sum(1).clamp_min(1e-6)
    return loss


def distillation_loss(logits: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Mean Kullback-Leibler divergence of student and teacher over classes, logits N×C (Hinton et al. 2015).

    A temperature above 1 also transfers the order of unlikely classes; its square keeps gradients' scale.
    """
    student_log, teacher_log = ((x / temperature).log_softmax(-1) for x in (logits, teacher))
    return F.kl_div(student_log, teacher_log, reduction="batchmean", log_target=True) * temperature**2
