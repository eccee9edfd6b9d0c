"""Loss terms of photos and captions.

Terms are means over photos of sums over tags, so they do not depend on the batch size or on the number of
processes. The published sums over a batch (`Objective.sums`) differ by a factor, to which AdamW is invariant;
`weights.distillation` compensates for it between terms.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from anytag.errors import ModelError
from anytag.torch.training.alignment import alignment_losses, encode_pairs
from anytag.torch.training.batch import Batch
from anytag.torch.training.chunked_loss import chunked_sum
from anytag.torch.training.distributed import gather, mean_over_ranks, process_index
from anytag.torch.training.losses import asymmetric_loss, caption_labels, caption_loss, same_texts
from anytag.torch.training.objectives import Objective
from anytag.torch.training.student import Outputs, Student, Term


def terms_of(objective: Objective) -> list[Term]:
    """The terms of an objective, for networks with an image encoder and for caption heads on a frozen one."""
    candidates: list[tuple[bool, type[Term]]] = [
        (objective.tags, TagTerm),
        (objective.captions, CaptionTerm),
        (objective.matching is not None, PairTerm),
        (objective.distils, DistillationTerm),
        (objective.aligns, AlignmentTerm),
    ]
    return [term() for is_used, term in candidates if is_used]


class TagTerm(Term):
    """The term "tag": asymmetric loss, summed over all known tags; or an unbiased estimate of it.

    The estimate uses all tags that a photo of the batch has and a sample of the others, which are weighted by
    the inverse of the sampled fraction.
    """

    def forward(self, student: Student, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        tags, objective = batch.require("tags"), student.objective
        if outputs.tokens is None:
            return {}  # with pooled features only the first pass is trained
        if outputs.logits is not None:  # the logits of sampled columns
            columns = torch.arange(tags.shape[1]) if batch.columns is None else batch.columns
            costs = asymmetric_loss(
                outputs.logits, tags[:, columns], gamma_neg=objective.gamma_neg, clip=objective.clip
            )
            weight = 1.0 if batch.weight is None else batch.weight[:, columns]
            return {"tag": student.reduce(costs * weight) * (tags.shape[1] / len(columns))}
        return {"tag": self._chunked(student, (outputs.tokens, outputs.pooled), tags, batch.weight)}

    def _chunked(
        self, student: Student, shared: tuple[Tensor, Tensor], tags: Tensor, known: Tensor | None
    ) -> Tensor:
        """The loss with forward and backward pass per chunk of tags."""
        objective, rows = student.objective, student.queries()
        weight = torch.ones(1, tags.shape[1], device=tags.device)  # 1×K, or N×K
        if student.sampled:
            columns, weight = _sample(tags, student.sampled)
            rows, tags = rows[:, columns], tags[:, columns]
            known = None if known is None else known[:, columns]
        weight = weight if known is None else weight * known
        targets, weights = torch.split(tags, student.chunk, 1), torch.split(weight, student.chunk, 1)

        def loss(number: int, piece: Tensor, tokens: Tensor, pooled: Tensor) -> Tensor:
            logits = student.score(tokens, pooled, piece)
            costs = asymmetric_loss(
                logits, targets[number], gamma_neg=objective.gamma_neg, clip=objective.clip
            )
            return student.reduce(costs * weights[number])

        pieces = torch.split(rows, student.chunk, 1)
        learned = list(student.network.decoder.parameters())
        return chunked_sum(loss, pieces, shared, learned=learned, scale=student.scale())


def _sample(tags: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Columns of the tags that any photo has and of up to `count` others, and their weights."""
    drawn = torch.randperm(tags.shape[1])[:count].to(tags.device)  # the same in all processes
    present = (tags > 0).any(0)
    weight = torch.ones(1, tags.shape[1], device=tags.device)
    weight[:] = (~present).sum() / (~present[drawn]).sum().clamp_min(1)
    weight[:, present] = 1
    columns = torch.cat([present.nonzero().squeeze(1), drawn[~present[drawn]]])
    return columns, weight[:, columns]


class CaptionTerm(Term):
    """The term "caption": a mean over the labelled wordpieces of all processes."""

    def forward(self, student: Student, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        head, ids = student.network.captions, batch.caption_ids
        if head is None or ids is None or outputs.tags is None:
            raise ModelError("this objective needs a caption head and wordpieces; give wordpieces=vocab.txt")
        logits, _ = head.decode(ids, head.project_kv(outputs.tags), mask=ids != 0)
        labels = caption_labels(ids, skip=student.prompt_length)
        count = (labels[:, 1:] >= 0).sum()
        weight = count / mean_over_ranks(count.float()).clamp_min(1)
        return {"caption": caption_loss(logits, labels, smoothing=student.objective.smoothing) * weight}


class PairTerm(Term):
    """The terms "contrast" and "match" of photos and their captions."""

    def forward(self, student: Student, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        head, matching, momentum = student.network.alignment, student.objective.matching, student.momentum
        if momentum is None:
            return {}
        assert matching is not None and outputs.tokens is not None
        pairs = encode_pairs(head, outputs.tokens, outputs.pooled, outputs.tags, batch.require("caption_ids"))
        alpha = matching.trust if batch.trust is None else batch.trust
        return alignment_losses(head, pairs, momentum, batch, alpha=alpha)


class DistillationTerm(Term):
    """The term "distillation": L1 distance of the pooled vector from the teacher's."""

    def forward(self, student: Student, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {} if batch.teacher is None else {"distillation": F.l1_loss(outputs.pooled, batch.teacher)}


class AlignmentTerm(Term):
    """The term "alignment": captions of all processes as queries for each photo."""

    def forward(self, student: Student, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        texts, objective = batch.texts, student.objective
        if texts is None or outputs.tokens is None:
            return {}
        all_texts = gather(texts)
        if objective.same_captions_match:
            same = same_texts(texts, all_texts)  # n×B
        else:
            own = torch.eye(len(all_texts), dtype=torch.bool, device=texts.device)
            same = own[process_index() * len(texts) :][: len(texts)]
        logits = student.score(outputs.tokens, outputs.pooled, student.queries.project_texts(all_texts))
        costs = asymmetric_loss(logits, same.float(), gamma_neg=objective.alignment_gamma_neg)
        return {"alignment": student.reduce(costs * (texts.any(1)[:, None] & all_texts.any(1)))}
