"""The trained module: a network and its queries, with a list of loss terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from anytag.torch.nn.network import TagNetwork
from anytag.torch.nn.query_modules import TagQueries
from anytag.torch.nn.small_caption_head import GuidedHead
from anytag.torch.training.alignment import Aligner, Momentum
from anytag.torch.training.batch import Batch
from anytag.torch.training.distributed import mean_over_ranks
from anytag.torch.training.objectives import Objective, Weights

HALF_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
PROMPT_LENGTH = 4  # wordpieces of "a picture of", with the start token


class FixedQueries(nn.Module):
    """Frozen text vectors: RAM, RAM++.

    Args:
        rows: K×P×R.
        precision: precision of the run, in which the rows are stored; autocast would convert them each step.
    """

    rows: Tensor

    def __init__(self, rows: Tensor, precision: str = "no") -> None:
        super().__init__()
        kept = rows.to(HALF_DTYPES.get(precision, rows.dtype))
        self.register_buffer("rows", kept, persistent=False)  # large, and can be computed again

    def forward(self) -> Tensor:
        """1×K×P×R."""
        return self.rows[None]

    def project_texts(self, texts: Tensor) -> Tensor:
        """Text vectors B×R -> rows 1×B×1×R."""
        return texts[None, :, None]


class WordQueries(TagQueries):
    """Trained projections of text vectors, with residuals: small models."""

    def forward(self, *_: Any, **__: Any) -> Tensor:
        """1×K×P×D."""
        return super().forward()[None]

    def project_texts(self, texts: Tensor) -> Tensor:
        """Text vectors B×W -> rows 1×B×1×D."""
        rows: Tensor = self.projection(texts)
        return rows[None, :, None]


class FrozenEncoderNetwork(nn.Module):
    """The small caption head alone, for cached image tokens."""

    def __init__(self, captions: GuidedHead) -> None:
        super().__init__()
        self.captions, self.alignment, self.decoder = captions, None, None


@dataclass
class Outputs:
    """Outputs of the network for a batch, which the loss terms share.

    Attributes:
        tokens: N×T×D; None for pooled features.
        pooled: N×D.
        tags: N×S×H, the encoded text of the tags, if the objective needs it.
        features: N×F, the backbone's pooled features, of which an evidence module classifies.
        logits: N×M, logits of the batch's columns, if several terms need them.
        coarse: N×K, logits of the first pass, if it is trained.
    """

    tokens: Tensor | None
    pooled: Tensor
    tags: Tensor | None = None
    features: Tensor | None = None
    logits: Tensor | None = None
    coarse: Tensor | None = None


class Term(nn.Module):
    """One or several loss terms: (student, outputs, batch) -> scalars by name."""

    def forward(self, student: Student, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        raise NotImplementedError


class Student(nn.Module):
    """A network and its queries; `forward` returns the loss of a batch, so that wrappers such as DDP work.

    Args:
        network: network of any family, or the caption head on a frozen encoder.
        queries: `FixedQueries`, `WordQueries`, `nn.query_modules.TagQueries` or `LearnedQueries`; None if
            there is no tag term.
        objective: hyperparameters of the terms.
        terms: the loss terms, such as those of `terms.terms_of`.
        sampled: number of negative tags sampled per step; 0: all tags.
        prompt_length: number of wordpieces of the prompt, which are not predicted.
        first: the stage whose input is cached.

    Attributes:
        chunk: number of tags decoded at once: a trade-off of memory and of accumulating gradients.
        momentum: the momentum encoder of the alignment heads; None before `init_momentum` and without them.
    """

    chunk: ClassVar[int] = 256

    def __init__(
        self, network: TagNetwork | FrozenEncoderNetwork, queries: nn.Module | None, objective: Objective,
        terms: Sequence[Term], *, sampled: int = 0, prompt_length: int = PROMPT_LENGTH, first: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.network: Any = network
        self.queries: Any = queries
        self.objective, self.terms = objective, nn.ModuleList(terms)
        self.sampled, self.prompt_length, self.first = sampled, prompt_length, first
        self.scale: Callable[[], float] = lambda: 1.0
        self.momentum: Momentum | None = None

    @property
    def stages(self) -> nn.ModuleList:
        """Stages of the backbone; empty for a caption head on a frozen encoder."""
        if isinstance(self.network, FrozenEncoderNetwork):
            return nn.ModuleList()
        stages: nn.ModuleList = self.network.encoder.backbone.stages
        return stages

    @property
    def trained(self) -> int:
        """Index of the first trained stage of the backbone; the number of stages if none is trained."""
        trained = (number for number, stage in enumerate(self.stages) if _is_trained(stage))
        return next(trained, len(self.stages))

    def init_momentum(self) -> None:
        """Create the momentum encoder, if there is one; call it after loading the initial weights."""
        matching = self.objective.matching
        if matching is not None:
            self.momentum = Momentum(Aligner(self.network), length=matching.queue, decay=matching.decay)

    def update_momentum(self) -> None:
        """Update the momentum encoder; call it after each step of the optimizer."""
        if self.momentum is not None:
            self.momentum.update(Aligner(self.network))

    def groups(self, *, rate: float, backbone_rate: float = 0.0) -> list[dict[str, Any]]:
        """Parameter groups of an optimizer, with their peak learning rates.

        Args:
            backbone_rate: peak rate of the backbone; 0: the same as `rate`.
        """
        trained = [p for p in self.parameters() if p.requires_grad]
        ids: set[int] = set()
        if backbone_rate:
            ids = {id(p) for p in self.stages.parameters()}
        parts = (
            ([p for p in trained if id(p) in ids], backbone_rate),
            ([p for p in trained if id(p) not in ids], rate),
        )
        return [{"params": params, "lr": peak} for params, peak in parts if params]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The unweighted terms by name, and their weighted sum as "loss"."""
        outputs = self.compute_outputs(batch)
        terms: dict[str, Tensor] = {}
        for term in self.terms:
            terms |= term(self, outputs, batch)
        return {**terms, "loss": weighted_sum(terms, self.objective.weights)}

    def compute_outputs(self, batch: Batch) -> Outputs:
        """The outputs that the terms share."""
        outputs = self._encoded(batch)
        if self.objective.reads and self.network.captions is not None and batch.tag_ids is not None:
            outputs.tags = self.network.captions.encode_tags(batch.tag_ids, batch.tag_mask, outputs.tokens)
        if self.objective.first_pass:
            if outputs.tokens is not None:
                rows = self.queries(batch.columns)
                outputs.logits = self.network.decoder(outputs.tokens, outputs.pooled, rows[None])
            # One random text per tag: all six would cost as much as the backbone.
            outputs.coarse = self.network.folded.coarse(outputs.pooled, self.queries(only=1)).float()
        return outputs

    def _encoded(self, batch: Batch) -> Outputs:
        if batch.tokens is not None:
            return Outputs(batch.tokens, batch.tokens.mean(1))
        if batch.features is not None:
            return self.encode(batch.features)
        return Outputs(*self.network.encoder(batch.pixels))

    def encode(self, features: Tensor) -> Outputs:
        """Cached features N×C×h×w, or pooled ones N×C -> the outputs of the image encoder."""
        encoder = self.network.encoder
        if features.ndim == 2:
            return Outputs(None, encoder.pool(features).float(), features=features)
        late = encoder.late(features.to(memory_format=torch.channels_last), self.first)
        tokens, pooled = encoder.project(late)
        return Outputs(tokens, pooled, features=late.mean(1))

    def score(self, tokens: Tensor, pooled: Tensor, rows: Tensor) -> Tensor:
        """Logits in float32; rows stored in half precision are converted if the tokens are in float32."""
        wide = rows.to(torch.promote_types(rows.dtype, pooled.dtype))
        logits: Tensor = self.network.decoder(tokens, pooled, wide)
        return logits.float()

    def logits(self, pixels: Tensor) -> Tensor:
        """Pixels uint8 N×3×S×S -> logits of all tags, float32 N×K."""
        tokens, pooled = self.network.encoder(pixels)
        pieces = torch.split(self.queries(), self.chunk, 1)
        return torch.cat([self.score(tokens, pooled, rows) for rows in pieces], 1)

    def reduce(self, costs: Tensor) -> Tensor:
        """Losses N×K: sum over tags, and mean over photos, or sum over photos as published."""
        return costs.sum() if self.objective.sums else costs.sum() / len(costs)


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def weighted_sum(terms: Mapping[str, Tensor], weights: Weights) -> Tensor:
    """The weighted sum, with the tag term scaled to the value of the caption term (Tag2Text, section 3.3).

    The tag term is not scaled in a step without captions.
    """
    scaled = dict(terms)
    if "caption" in terms and "tag" in terms:
        captions, tags = mean_over_ranks(terms["caption"]), mean_over_ranks(terms["tag"])
        both = (captions > 0) & (tags > 0)
        factor = torch.where(both, captions / tags.clamp_min(1e-30), torch.ones_like(tags))
        scaled["tag"] = terms["tag"] * factor
    parts = [getattr(weights, name) * value for name, value in scaled.items()]
    return torch.stack(parts).sum()
