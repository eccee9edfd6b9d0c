"""Any family, trained from photos: the network with its queries as a student, and the loop over pixels.

Terms are means over photos of sums over tags, so that a figure reads as "per photo" and does not depend on
the batch or on how many processes share it. The published sums over a batch (`Objective.sums`) differ from
them by a factor, which AdamW does not see; where it weighs terms against each other, `distillation` makes up
for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import register_fsdp_forward_method

from anytag.errors import ModelError
from anytag.evaluation.metrics import mean_average_precision
from anytag.text_encoders import TextEncoder
from anytag.text_encoders.queries import known_vectors
from anytag.text_encoders.wordpiece import WordPieces
from anytag.torch.nn.network import TagNetwork
from anytag.torch.nn.query_modules import TagQueries
from anytag.torch.training.alignment import (
    Aligner,
    AlignmentBatch,
    Momentum,
    alignment_losses,
    read_pairs,
    text_numbers,
)
from anytag.torch.training.chunked_loss import summed
from anytag.torch.training.distributed import gather, mean_over_ranks, process_index
from anytag.torch.training.losses import asymmetric_loss, caption_labels, caption_loss, same_texts
from anytag.torch.training.objectives import Objective
from anytag.torch.training.photo_dataset import PixelBatch, PixelCorpus
from anytag.torch.training.report import Reporter, Tally
from anytag.torch.training.schedules import Schedule
from anytag.torch.training.sharded import check_parted
from anytag.torch.training.trainer import Loop, Machine, checkpoint_parts

Floats = npt.NDArray[np.float32]
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
Teacher = Callable[[Tensor], Tensor]
"""uint8 N×3×S×S, the student's own crop -> N×D."""

PIECE = 256
"""Tags decoded at once: fewer would add up the weights' gradients more often, more would need more memory."""
PROMPT_LENGTH = 4  # of "a picture of" by BERT's wordpieces, with what a caption begins with
TEXT = 40  # wordpieces of a caption at most, as published


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
    """Projected text vectors with what training adds, trained: mini and small models."""

    def forward(self, *_: Any, **__: Any) -> Tensor:
        """1×K×P×D."""
        return super().forward()[None]

    def ask(self, texts: Tensor) -> Tensor:
        """Text vectors B×W -> rows 1×B×1×D."""
        rows: Tensor = self.projection(texts)
        return rows[None, :, None]


@dataclass
class FamilyBatch:
    """What a family's step reads: N photos on the device.

    Attributes:
        pixels: uint8 N×3×S×S.
        tags: N×K in [0, 1].
        tag_ids, tag_mask: N×S wordpieces of the tags' text.
        caption_ids: N×L wordpieces of a caption each.
        texts: N×D unit text vectors, zeros where a photo has no caption.
        teacher: N×D, what the teacher says of the same crop.
        whose: int64 N×2, as `AlignmentBatch` has it.
        known: bool N×K, False where a tag may or may not be there; all are known when None.
        trust: N, share of the contrast's targets that is the slow copy's opinion; the objective's if None.
    """

    pixels: Tensor
    tags: Tensor
    tag_ids: Tensor | None = None
    tag_mask: Tensor | None = None
    caption_ids: Tensor | None = None
    texts: Tensor | None = None
    teacher: Tensor | None = None
    whose: Tensor | None = None
    known: Tensor | None = None
    trust: Tensor | None = None


class FamilyStudent(nn.Module):
    """A network and its queries, with the loss of a batch as `forward`.

    Args:
        network: of any family.
        queries: `FixedQueries`, `WordQueries`, or learned ones (`nn.query_modules.LearnedQueries`).
        objective: which terms there are.
        distillation: weight of that term beside the others.
        asked: tags that a step draws, beside those that its photos have; all when 0.
        prompt_length: wordpieces at a caption's beginning that are not learned, as many as the prompt has.

    Attributes:
        momentum: the slow copy that alignment heads learn beside; from `begin` on, where they are trained.
    """

    def __init__(
        self, network: TagNetwork, queries: nn.Module, objective: Objective, *,
        distillation: float = 1.0, asked: int = 0, prompt_length: int = PROMPT_LENGTH,
    ) -> None:  # fmt: skip
        super().__init__()
        self.network, self.queries, self.objective = network, queries, objective
        self.distillation = distillation
        self.asked = asked
        self.prompt_length = prompt_length
        self.scale: Callable[[], float] = lambda: 1.0
        self.momentum: Momentum | None = None

    def begin(self) -> None:
        """Copies what is copied, once the weights are those that training starts with."""
        matching = self.objective.matching
        if matching is not None:
            self.momentum = Momentum(Aligner(self.network), length=matching.queue, decay=matching.decay)

    def follow(self) -> None:
        """What a step of the optimizer is followed by."""
        if self.momentum is not None:
            self.momentum.follow(Aligner(self.network))

    def checkpoint(self) -> None:
        """Gradient checkpointing of the backbone's stages; the decoder keeps but some tags anyway."""
        checkpoint_parts(self.network.encoder.backbone.stages)

    def forward(self, batch: FamilyBatch) -> dict[str, Tensor]:
        """Every term, unweighted, and their sum as "loss"."""
        objective = self.objective
        tokens, pooled = self.network.encoder(batch.pixels)
        terms = {"tag": self._tags(tokens, pooled, batch.tags, batch.known)}
        tags = self._encoded_tags(tokens, batch) if objective.reads else None
        if objective.captions and tags is not None:
            terms["caption"] = self._captions(tags, batch)
        if self.momentum is not None:
            terms |= self._pairs(tokens, pooled, tags, batch, self.momentum)
        if objective.distils and batch.teacher is not None:
            terms["distillation"] = F.l1_loss(pooled, batch.teacher)
        if objective.aligns and batch.texts is not None:
            terms["alignment"] = self._alignment(tokens, pooled, batch.texts)
        return {**terms, "loss": self._total(terms)}

    def _tags(self, tokens: Tensor, pooled: Tensor, tags: Tensor, known: Tensor | None = None) -> Tensor:
        """Asymmetric loss of all known tags, a sum for each photo; or an estimate of it from `asked` tags.

        The estimate takes all tags that a photo of the batch has, and draws among the others, each of which
        stands for several: its mean over draws is the loss of all.
        """
        rows: Tensor = self.queries()
        weight = torch.ones(1, tags.shape[1], device=tags.device)  # 1×K, or N×K
        if self.asked:
            drawn = torch.randperm(tags.shape[1])[: self.asked].to(tags.device)  # the same in all processes
            present = (tags > 0).any(0)
            weight[:] = (~present).sum() / (~present[drawn]).sum().clamp_min(1)
            weight[:, present] = 1
            columns = torch.cat([present.nonzero().squeeze(1), drawn[~present[drawn]]])
            rows, tags, weight = rows[:, columns], tags[:, columns], weight[:, columns]
            known = None if known is None else known[:, columns]
        weight = weight if known is None else weight * known
        told, weights = torch.split(tags, PIECE, 1), torch.split(weight, PIECE, 1)

        def loss(number: int, piece: Tensor, tokens: Tensor, pooled: Tensor) -> Tensor:
            logits = self._ask(tokens, pooled, piece)
            costs = asymmetric_loss(logits, told[number], gamma_neg=self.objective.gamma_neg)
            total: Tensor = self._reduced(costs * weights[number])
            return total

        pieces = torch.split(rows, PIECE, 1)
        learned = list(self.network.decoder.parameters())
        return summed(loss, pieces, (tokens, pooled), learned=learned, scale=self.scale())

    def _reduced(self, costs: Tensor) -> Tensor:
        """A sum over tags of costs N×K, and a mean over photos, or a sum over them as published."""
        return costs.sum() if self.objective.sums else costs.sum() / len(costs)

    def _ask(self, tokens: Tensor, pooled: Tensor, rows: Tensor) -> Tensor:
        """Logits in float32; rows that are kept in half precision are widened where nothing else is half."""
        wide = rows.to(torch.promote_types(rows.dtype, pooled.dtype))
        logits: Tensor = self.network.decoder(tokens, pooled, wide)
        return logits.float()

    def logits(self, pixels: Tensor) -> Tensor:
        """uint8 N×3×S×S -> float32 N×K, of every tag."""
        tokens, pooled = self.network.encoder(pixels)
        pieces = torch.split(self.queries(), PIECE, 1)
        return torch.cat([self._ask(tokens, pooled, piece) for piece in pieces], 1)

    def _total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The sum, in which tags weigh as much as captions, where there are captions (Tag2Text, 3.3).

        In a step without any caption to learn from, tags keep their own size.
        """
        tag = terms["tag"]
        if "caption" in terms:
            captions, tags = mean_over_ranks(terms["caption"]), mean_over_ranks(tag)
            both = (captions > 0) & (tags > 0)
            tag = tag * torch.where(both, captions / tags.clamp_min(1e-30), torch.ones_like(tags))
        weights = {"distillation": self.distillation}
        others = [weights.get(name, 1.0) * value for name, value in terms.items() if name != "tag"]
        return sum(others, tag)

    def _encoded_tags(self, tokens: Tensor, batch: FamilyBatch) -> Tensor:
        """N×S×H, of the tags' text."""
        if self.network.captions is None or batch.tag_ids is None or batch.tag_mask is None:
            raise ModelError("this objective needs a caption head and wordpieces; give wordpieces=vocab.txt")
        return self.network.captions.encode_tags(batch.tag_ids, batch.tag_mask, tokens)

    def _captions(self, tags: Tensor, batch: FamilyBatch) -> Tensor:
        """A mean over the labelled positions of all processes, as if they were one."""
        head, ids = self.network.captions, batch.caption_ids
        assert head is not None and ids is not None  # there are encoded tags
        logits, _ = head.decode(ids, head.remember(tags), mask=ids != 0)
        labels = caption_labels(ids, unlearned=self.prompt_length)
        mine = (labels[:, 1:] >= 0).sum()
        share = mine / mean_over_ranks(mine.float()).clamp_min(1)
        return caption_loss(logits, labels) * share

    def _pairs(
        self, tokens: Tensor, pooled: Tensor, tags: Tensor | None, batch: FamilyBatch, momentum: Momentum
    ) -> dict[str, Tensor]:
        """ "contrast" and "match" of the photos with their captions."""
        head, matching = self.network.alignment, self.objective.matching
        assert head is not None and matching is not None  # there is a momentum
        assert batch.caption_ids is not None and batch.whose is not None
        pairs = AlignmentBatch(batch.pixels, batch.caption_ids, batch.whose, batch.tag_ids, batch.tag_mask)
        read = read_pairs(head, tokens, pooled, tags, pairs.text_ids)
        trust = matching.trust if batch.trust is None else batch.trust
        return alignment_losses(head, read, momentum, pairs, trust=trust)

    def _alignment(self, tokens: Tensor, pooled: Tensor, texts: Tensor) -> Tensor:
        """Each photo is asked with the captions of all processes; what fits it, the objective says."""
        everyone = gather(texts)
        asked = everyone.any(1)
        if self.objective.same_captions_match:
            same = same_texts(texts, everyone)  # n×B
        else:
            own = torch.eye(len(everyone), dtype=torch.bool, device=texts.device)
            same = own[process_index() * len(texts) :][: len(texts)]
        rows: Tensor = self.queries.ask(everyone)  # type: ignore[operator]  # 1×B×1×R
        logits = self._ask(tokens, pooled, rows)
        told = texts.any(1)[:, None] & asked
        wanted = asymmetric_loss(logits, same.float(), gamma_neg=self.objective.alignment_gamma_neg)
        return self._reduced(wanted * told)


class FamilyLoop(Loop):
    """The loop over photos.

    Args:
        corpus: of this process.
        schedule: how the rate goes.
        text: makes text vectors of captions, where the objective aligns.
        pieces: makes wordpieces, where it has captions.
        teacher: sees the same crop as the student.
    """

    helpers: ClassVar[tuple[str, ...]] = ("momentum.",)

    def __init__(
        self,
        student: FamilyStudent,
        corpus: PixelCorpus,
        recipe: Any,
        out: Path,
        *,
        schedule: Schedule | None = None,
        text: TextEncoder | None = None,
        pieces: WordPieces | None = None,
        teacher: Teacher | None = None,
        machine: Machine | None = None,
        report: Reporter | None = None,
    ) -> None:
        if machine is not None and machine.checkpointing:
            student.checkpoint()
        super().__init__(student, recipe, out, machine=machine, report=report)
        if (scaler := self.accelerator.scaler) is not None:
            student.scale = scaler.get_scale
        if self.sharded:
            check_parted(self.accelerator, student.network.decoder)
            register_fsdp_forward_method(student, "logits")
        self.family = student
        self.corpus, self.schedule, self.text, self.pieces = corpus, schedule or Schedule(), text, pieces
        self.teacher = teacher
        self.unknown = Tally()

    def groups(self, student: Any) -> list[dict[str, Any]]:
        return [{"params": [p for p in student.parameters() if p.requires_grad], "lr": self.recipe.rate}]

    def rate(self, step: int) -> float:
        recipe = self.recipe
        now = self.schedule.learning_rate(
            step, rate=recipe.rate, warmup=recipe.warmup, total=self.total, per_epoch=self.steps_per_epoch()
        )
        return now / recipe.rate if recipe.rate else 0.0

    def steps_per_epoch(self) -> int:
        return self.corpus.steps_per_epoch()

    def stream(self) -> Iterator[PixelBatch]:
        return self.corpus.stream(self.step, self.total)

    def _share(self, batch: PixelBatch) -> FamilyBatch:
        """The batch on its device, with texts and the teacher's view; it is this process's share already."""
        device, objective = self.accelerator.device, self.family.objective
        pixels, tags = (x.to(device, non_blocking=True) for x in (batch.pixels, batch.tags))
        made = FamilyBatch(pixels, tags, known=None if batch.known is None else batch.known.to(device))
        if objective.reads and self.pieces is not None:
            ids, mask, words = (torch.from_numpy(text).to(device) for text in self._read(batch, self.pieces))
            made = replace(made, tag_ids=ids, tag_mask=mask, caption_ids=words)
        if objective.matching is not None:
            whose = torch.tensor([batch.numbers, text_numbers(batch.captions)], device=device)
            trust = torch.full((len(pixels),), objective.matching.trust * self._ramp(), device=device)
            made = replace(made, whose=whose.T, trust=trust)
        if objective.aligns and self.text is not None:
            made = replace(made, texts=self._vectors(batch.captions, self.text).to(device))
        if objective.distils and self.teacher is not None:
            with torch.no_grad():
                made = replace(made, teacher=self.teacher(pixels))
        return made

    def _read(self, batch: PixelBatch, pieces: WordPieces) -> tuple[npt.NDArray[np.int64], ...]:
        """Wordpieces of tags and their mask, N×S both, and of captions, N×L."""
        config = self.family.network.config.captions
        tags, room = (TEXT, TEXT) if config is None else (config.tag_length, config.positions)
        alignment = self.family.network.config.alignment
        room = min(TEXT, room, TEXT if alignment is None else alignment.positions)
        return (
            *pieces.tag_text(self._told(batch), length=tags),
            pieces.caption_text(batch.captions, length=room),
        )

    def _vectors(self, captions: list[str], text: TextEncoder) -> Tensor:
        """`caption_vectors`; what has none is counted."""
        vectors = caption_vectors(captions, text)
        for caption, known in zip(captions, vectors.any(1).tolist(), strict=True):
            if caption and not known:
                self.unknown.add("captions are no queries, as the text encoder does not know them", caption)
        return vectors

    def _ramp(self) -> float:
        """How far the slow copy is trusted: more and more in the first epoch, as ALBEF has it."""
        return min(1.0, self.step / self.steps_per_epoch())

    def run(self) -> None:
        super().run()
        for tally in (self.corpus.unread, self.unknown):
            for line in self._everyones(tally).lines():
                self.report.say(line)

    def _everyones(self, mine: Tally) -> Tally:
        """What all processes passed over, in the first; the others have nothing to say."""
        if self.accelerator.num_processes == 1:
            return mine
        from accelerate.utils import gather_object

        whole = Tally()
        for one in gather_object([mine]):
            if self.accelerator.is_main_process:
                whole.join(one)
        return whole

    def _told(self, batch: PixelBatch) -> list[tuple[str, ...]]:
        """The tags that are told of each photo: those of its caption, or none."""
        if self.family.objective.matching is None:
            return batch.named
        told = torch.rand(len(batch.named)) >= self.family.objective.matching.unguided
        return [named if tell else () for named, tell in zip(batch.named, told.tolist(), strict=True)]

    def after_step(self) -> None:
        self.family.follow()

    def data_key(self) -> str:
        photos = self.corpus.photos
        tags = "\n".join(photos.vocabulary.ids)
        return hashlib.sha256(f"{photos.sha256}\n{tags}".encode()).hexdigest()

    def evaluate(self) -> Mapping[str, float]:
        """mAP on the held-out photos, of the tags that any of them has."""
        return held_out_figures(self.held_out_logits(), self.corpus.photos.truth)

    def take_averages(self) -> None:
        """The student becomes the result: the averaged weights, for evaluation; in every process."""
        self.family.load_state_dict(self.average.state(self.family))
        self.family.eval()

    def held_out_logits(self) -> Floats:
        """Of every tag in the held-out photos, with the present weights: N×K; every process has to ask."""
        mine = self._held_out_logits()
        if self.sharded:
            self.family.reshard()  # type: ignore[operator]  # what fully_shard added
        if self.accelerator.num_processes == 1:
            return mine
        from accelerate.utils import gather_object

        logits = np.stack(gather_object([mine]), 1)  # photo n was read by process n % world
        return logits.reshape(-1, logits.shape[-1])[: len(self.corpus.photos.held)]

    @torch.no_grad()
    def _held_out_logits(self) -> Floats:
        """Of this process's share of the photos."""
        student = self.family.eval()
        device = next(student.parameters()).device
        batches = self.corpus.held_out(batch_size=32)
        found = [student.logits(pixels.to(device)).cpu().numpy() for pixels in batches]
        return np.concatenate([np.zeros((0, len(self.corpus.photos.vocabulary)), np.float32), *found])


def held_out_figures(logits: Floats, truth: npt.NDArray[np.bool_]) -> dict[str, float]:
    """mAP of N×K logits over the tags that any photo has; nothing where none has one."""
    return {"mAP": mean_average_precision(logits, truth)[0]} if truth.any() else {}


def caption_vectors(captions: list[str], text: TextEncoder) -> Tensor:
    """N×D unit vectors; zeros where a caption is empty or says nothing the encoder knows."""
    vectors = torch.zeros(len(captions), text.dim)
    told = [number for number, caption in enumerate(captions) if any(map(str.isalpha, caption))]
    if told:
        found = known_vectors([captions[number] for number in told], text)
        vectors[told] = torch.from_numpy(found)
    return vectors
