"""What is trained: a network and its queries, with a list of loss terms."""

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

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
PROMPT_LENGTH = 4  # of "a picture of" by BERT's wordpieces, with what a caption begins with


class FixedQueries(nn.Module):
    """Text vectors that are not trained: RAM, RAM++.

    Args:
        rows: K×P×R.
        precision: of the run. Autocast would round a copy of all rows in every step: they are kept rounded.
    """

    rows: Tensor

    def __init__(self, rows: Tensor, precision: str = "no") -> None:
        super().__init__()
        kept = rows.to(HALVES.get(precision, rows.dtype))
        self.register_buffer("rows", kept, persistent=False)  # a file of the run, and large

    def forward(self) -> Tensor:
        """1×K×P×R."""
        return self.rows[None]

    def ask(self, texts: Tensor) -> Tensor:
        """Text vectors B×R -> rows 1×B×1×R."""
        return texts[None, :, None]


class WordQueries(TagQueries):
    """Projected text vectors with what training adds, trained: small models."""

    def forward(self, *_: Any, **__: Any) -> Tensor:
        """1×K×P×D."""
        return super().forward()[None]

    def ask(self, texts: Tensor) -> Tensor:
        """Text vectors B×W -> rows 1×B×1×D."""
        rows: Tensor = self.projection(texts)
        return rows[None, :, None]


class FrozenEncoderNetwork(nn.Module):
    """A network whose encoder has run already: the small caption head alone."""

    def __init__(self, captions: GuidedHead) -> None:
        super().__init__()
        self.captions, self.alignment, self.decoder = captions, None, None


@dataclass
class Seen:
    """What a network makes of a batch, before any term.

    Attributes:
        tokens: N×T×D; None where only means are known.
        pooled: N×D.
        tags: N×S×H, the tags' encoded text, where the objective reads any.
        logits: N×M of the batch's columns, where several terms need them.
        coarse: N×K of the first pass, where it is trained.
    """

    tokens: Tensor | None
    pooled: Tensor
    tags: Tensor | None = None
    logits: Tensor | None = None
    coarse: Tensor | None = None


class Term(nn.Module):
    """One term of the loss or several: (student, what it sees, batch) -> scalars by name."""

    def forward(self, student: Student, seen: Seen, batch: Batch) -> dict[str, Tensor]:
        raise NotImplementedError


class Student(nn.Module):
    """A network and its queries, with the loss of a batch as `forward`, so that any wrapper works.

    Args:
        network: of any family, or the caption head on a frozen encoder.
        queries: `FixedQueries`, `WordQueries`, `nn.query_modules.TagQueries` or `LearnedQueries`; None where
            no tag is asked.
        objective: the numbers of the terms.
        terms: as `terms.terms_of` has them.
        sampled: negative tags sampled per step; 0 uses all.
        prompt_length: wordpieces at a caption's beginning that are not learned, as many as the prompt has.
        first: the stage that cached features are for.

    Attributes:
        chunk: tags decoded at once: fewer would add up the weights' gradients more often, more would need
            more memory.
        momentum: the momentum encoder that alignment heads learn beside; from `begin` on, where they are
            trained.
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
        """Of the backbone; none where the encoder has run already."""
        if isinstance(self.network, FrozenEncoderNetwork):
            return nn.ModuleList()
        stages: nn.ModuleList = self.network.encoder.backbone.stages
        return stages

    @property
    def trained(self) -> int:
        """The first stage of the backbone that is trained; their number where none is."""
        learning = (number for number, stage in enumerate(self.stages) if _learns(stage))
        return next(learning, len(self.stages))

    def begin(self) -> None:
        """Copies what is copied, once the weights are those that training starts with."""
        matching = self.objective.matching
        if matching is not None:
            self.momentum = Momentum(Aligner(self.network), length=matching.queue, decay=matching.decay)

    def follow(self) -> None:
        """What a step of the optimizer is followed by."""
        if self.momentum is not None:
            self.momentum.follow(Aligner(self.network))

    def groups(self, *, rate: float, backbone_rate: float = 0.0) -> list[dict[str, Any]]:
        """What is trained, at which peak learning rates: parameter groups of an optimizer.

        Args:
            backbone_rate: of the backbone; `rate` when 0.
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
        """Every term, unweighted, and their weighted sum as "loss"."""
        seen = self.look(batch)
        terms: dict[str, Tensor] = {}
        for term in self.terms:
            terms |= term(self, seen, batch)
        return {**terms, "loss": total(terms, self.objective.weights)}

    def look(self, batch: Batch) -> Seen:
        """What all terms share."""
        seen = Seen(*self._encoded(batch))
        if self.objective.reads and self.network.captions is not None and batch.tag_ids is not None:
            seen.tags = self.network.captions.encode_tags(batch.tag_ids, batch.tag_mask, seen.tokens)
        if self.objective.first_pass:
            if seen.tokens is not None:
                rows = self.queries(batch.columns)
                seen.logits = self.network.decoder(seen.tokens, seen.pooled, rows[None])
            # All six texts of a tag would cost as much as the backbone.
            seen.coarse = self.network.folded.coarse(seen.pooled, self.queries(only=1)).float()
        return seen

    def _encoded(self, batch: Batch) -> tuple[Tensor | None, Tensor]:
        if batch.tokens is not None:
            return batch.tokens, batch.tokens.mean(1)
        if batch.features is not None and batch.memory is not None:
            return self.encode(batch.features, batch.memory)
        found: tuple[Tensor, Tensor] = self.network.encoder(batch.pixels)
        return found

    def encode(self, features: Tensor, memory: Tensor) -> tuple[Tensor | None, Tensor]:
        """Cached features N×C×h×w and memory N×F -> tokens N×T×D, pooled N×D; of means N×C pooled alone."""
        encoder = self.network.encoder
        if features.ndim == 2:
            return None, encoder.pool(features, memory).float()
        tokens, pooled = encoder.from_stage(
            features.to(memory_format=torch.channels_last), self.first, memory
        )
        return tokens, pooled

    def ask(self, tokens: Tensor, pooled: Tensor, rows: Tensor) -> Tensor:
        """Logits in float32; rows that are kept in half precision are widened where nothing else is half."""
        wide = rows.to(torch.promote_types(rows.dtype, pooled.dtype))
        logits: Tensor = self.network.decoder(tokens, pooled, wide)
        return logits.float()

    def logits(self, pixels: Tensor) -> Tensor:
        """uint8 N×3×S×S -> float32 N×K, of every tag."""
        tokens, pooled = self.network.encoder(pixels)
        pieces = torch.split(self.queries(), self.chunk, 1)
        return torch.cat([self.ask(tokens, pooled, rows) for rows in pieces], 1)

    def reduced(self, costs: Tensor) -> Tensor:
        """A sum over tags of costs N×K, and a mean over photos, or a sum over them as published."""
        return costs.sum() if self.objective.sums else costs.sum() / len(costs)


def _learns(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def total(terms: Mapping[str, Tensor], weights: Weights) -> Tensor:
    """The weighted sum, in which tags weigh as much as captions, where there are both (Tag2Text, 3.3).

    In a step without any caption to learn from, tags keep their own size.
    """
    scaled = dict(terms)
    if "caption" in terms and "tag" in terms:
        captions, tags = mean_over_ranks(terms["caption"]), mean_over_ranks(terms["tag"])
        both = (captions > 0) & (tags > 0)
        factor = torch.where(both, captions / tags.clamp_min(1e-30), torch.ones_like(tags))
        scaled["tag"] = terms["tag"] * factor
    parts = [getattr(weights, name) * value for name, value in scaled.items()]
    return torch.stack(parts).sum()
