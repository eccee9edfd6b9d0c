"""The trainer: steps, learning rates, logs and checkpoints of a run.

All randomness in a step is determined by the seed and the step number, so a resumed run is identical to an
uninterrupted one: same order of photos, same loss, same weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.fsdp import register_fsdp_forward_method
from torch.utils.checkpoint import checkpoint

from anytag._typing import Floats
from anytag.errors import AnytagError
from anytag.torch.training.allocator import keep_freed_memory
from anytag.torch.training.batch import Batch, Dataset
from anytag.torch.training.checkpoint import (
    EMA,
    LOG,
    STATE,
    STUDENT,
    append_to_log,
    check_same,
    read_state,
    truncate_log,
    write_state,
    write_tensors,
)
from anytag.torch.training.distributed import gather_tally
from anytag.torch.training.held_out import held_out_figures, held_out_logits
from anytag.torch.training.loggers import Trackers
from anytag.torch.training.meters import Clock, Means
from anytag.torch.training.recipes import Recipe
from anytag.torch.training.report import Progress, Reporter
from anytag.torch.training.run import RunOptions
from anytag.torch.training.sharded import (
    check_wrapping,
    fill,
    full_state,
    gathered,
    lift_scalars,
    load_full_state,
)
from anytag.torch.training.student import Student

MAX_SKIPPED = 5
"""Number of consecutive steps with a non-finite gradient that ends a run; fewer are skipped."""
MAX_OVERFLOWS = 25
"""The same in fp16 with a finite loss: overflows are normal there, as each halves the gradient scale."""

GRADIENT = "gradient_norm"


class Trainer:
    """Trains a student; its state can be saved and resumed at any step.

    Args:
        student: the student with its initial weights.
        dataset: this process's share of the data.
        recipe: the recipe.
        out: folder of state, log and result.
        teacher: the student's crop, uint8 N×3×S×S -> vectors N×D.
        sources: hashes of the files that the run reads, with which alone it can be resumed.
        accelerator: the accelerator for which the dataset was made; None: a new one.
    """

    clip: float = 200.0  # of the gradient norm
    training_only = ("momentum.",)
    """Prefixes of tensors that only training needs."""

    def __init__(
        self,
        student: Student,
        dataset: Dataset,
        recipe: Recipe,
        out: Path,
        *,
        teacher: Callable[[Tensor], Tensor] | None = None,
        sources: Mapping[str, str] | None = None,
        run_options: RunOptions | None = None,
        accelerator: Accelerator | None = None,
        report: Reporter | None = None,
    ) -> None:
        self.recipe, self.out, self.dataset, self.sources = recipe, out, dataset, dict(sources or {})
        self.teacher, self.run_options, self.report = (
            teacher,
            run_options or RunOptions(),
            report or Reporter(),
        )
        self.accelerator = accelerator or accelerator_of(recipe, self.run_options)
        self.sharded = self.accelerator.distributed_type == DistributedType.FSDP
        if self.run_options.checkpointing:
            checkpoint_parts(student.stages)
        self.lifted = lift_scalars(student) if self.sharded else frozenset[str]()
        groups = student.groups(rate=recipe.rate, backbone_rate=recipe.backbone_rate)
        self.peaks = [group["lr"] for group in groups]
        optimizer = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay, foreach=True)
        self.plain = student
        self.student, self.optimizer = self.accelerator.prepare(student, optimizer)
        if self.sharded:
            check_wrapping(self.accelerator, student.network.decoder)
            register_fsdp_forward_method(student, "logits")
        if (scaler := self.accelerator.scaler) is not None:
            student.scale = scaler.get_scale
        self.ema = EMA(student, recipe.ema)
        self.step, self.skipped = 0, 0
        self.total = recipe.steps or recipe.epochs * dataset.steps_per_epoch()
        self.means = Means()
        self.trackers = Trackers()

    def rate(self, step: int) -> float:
        """Learning rate at a step, relative to its peak."""
        recipe, per_epoch = self.recipe, self.dataset.steps_per_epoch()
        now = recipe.schedule.learning_rate(
            step, rate=recipe.rate, warmup=recipe.warmup, total=self.total, per_epoch=per_epoch
        )
        return now / recipe.rate if recipe.rate else 0.0

    def evaluate(self) -> Mapping[str, float]:
        """Figures on held-out photos with the current weights, in every process; {} without photos."""
        if self.dataset.truth is None:
            return {}
        return held_out_figures(self.held_out_logits(), self.dataset.truth)

    def held_out_logits(self) -> Floats:
        """Logits N×K of the held-out photos with the current weights; a collective operation."""
        found = held_out_logits(self.plain, self.dataset)
        if self.sharded:
            self.plain.reshard()  # type: ignore[operator]  # added by fully_shard
        return found

    def load_averages(self) -> None:
        """Load the averaged weights into the student, in evaluation mode; in every process."""
        self.plain.load_state_dict(self.ema.state(self.plain))
        self.plain.eval()

    # The run.

    def fit(self) -> None:
        """Train to the end and write OUT/student.pt.

        Raises:
            AnytagError: there are fewer photos than a batch, gradients are not finite for several steps, or
                the result cannot be written.
        """
        if self.accelerator.device.type == "cpu":
            keep_freed_memory()
        if self.recipe.warmup > self.total:
            self.report.say(
                f"warmup={self.recipe.warmup} is longer than the run of {self.total} steps, so the learning "
                "rate never reaches its peak; give a smaller warmup."
            )
        if self.accelerator.is_main_process:
            truncate_log(self.out / LOG, self.step)  # also of a run that was killed before its first state
        self.trackers.open(self)
        per_epoch = self.dataset.steps_per_epoch()
        clock = Clock(self.step)
        self.student.train()
        stream = self.dataset.stream(self.step, self.total)
        while (batch := clock.next_batch(stream)) is not None:
            self._step(batch)
            if self.step % self.run_options.log_every == 0 or self.step == self.total:
                self._log(clock)
            if self.step % per_epoch == 0 or self.step == self.total:
                self._evaluate()
            if clock.since_save() > self.run_options.save_minutes * 60:
                self._try_save()
                clock.saved = time.monotonic()
        self._finish()  # before the state, which is three times as large and less important
        self._try_save("the result is written, but the run cannot be extended")
        for tally in self.dataset.tallies:
            for line in gather_tally(tally).lines():
                self.report.say(line)

    def _step(self, batch: Batch) -> dict[str, Tensor]:
        torch.manual_seed(hash((self.recipe.seed, self.step)) % 2**31)  # for dropout and sampling
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * self.rate(self.step)
        terms = self._backward(self._prepare(batch))
        if self._update(terms):
            self.ema.update(self.plain)
            self.plain.update_momentum()
            self.skipped = 0
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return terms

    def _update(self, terms: Mapping[str, Tensor]) -> bool:
        """Take a step of the optimizer, if the gradient is finite; returns whether it is."""
        norm = self.accelerator.clip_grad_norm_(self.student.parameters(), self.clip)
        finite = norm is None or bool(torch.isfinite(norm))
        if finite:
            self.optimizer.step()
            self.means.add(terms if norm is None else {**terms, **gathered({GRADIENT: norm})})
            return True
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.update()  # halves the gradient scale of fp16
        self._skip(terms)
        return False

    def _backward(self, batch: Batch) -> dict[str, Tensor]:
        """Accumulate gradients of this process's photos; returned terms are means over the parts."""
        parts = self.run_options.accumulate
        sums: dict[str, Tensor] = {}
        for number in range(parts):
            last = number == parts - 1
            with nullcontext() if last else self.accelerator.no_sync(self.student):
                terms: dict[str, Tensor] = self.student(batch.take(slice(number, None, parts)))
                self.accelerator.backward(terms["loss"] / parts)
            for name, value in terms.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value.detach() / parts
        return sums

    def _skip(self, terms: Mapping[str, Tensor]) -> None:
        """Skip a step with non-finite gradients; abort after several in a row."""
        self.skipped += 1
        loss, scaler = terms["loss"].item(), self.accelerator.scaler
        overflow = scaler is not None and math.isfinite(loss)
        if self.skipped >= (MAX_OVERFLOWS if overflow else MAX_SKIPPED):
            raise AnytagError(
                f"step {self.step}: the gradient was not finite for {self.skipped} steps in a row (the loss "
                f"is {loss}); start in a new folder with lower learning rates"
                f"{', or precision=bf16' * overflow}"
            )
        why = f"its gradient is not finite (the loss is {loss})"
        if overflow and scaler is not None:
            why = f"its gradient overflows in fp16; the gradient scale is now {scaler.get_scale():g}"
        self.report.say(f"Step {self.step} is skipped: {why}.")

    def _prepare(self, batch: Batch) -> Batch:
        """The batch on the device, with the teacher's vectors."""
        batch = batch.to(self.accelerator.device)
        if self.teacher is None or batch.pixels is None:
            return batch
        with torch.no_grad():
            return replace(batch, teacher=self.teacher(batch.pixels))

    # What is written.

    def _log(self, clock: Clock) -> None:
        """Log means since the last line, over all processes."""
        speed, waited = clock.lap(self.step, self.recipe.batch_size)
        terms = self.means.take()
        figures = {}
        if terms:
            means = self.accelerator.reduce(torch.stack(list(terms.values())), "mean")
            figures = {name: round(value, 4) for name, value in zip(terms, means.tolist(), strict=True)}
        left = (self.total - self.step) * self.recipe.batch_size / max(speed, 1e-9)
        line = {
            "step": self.step,
            "of": self.total,
            "epoch": (self.step - 1) // self.dataset.steps_per_epoch(),
            "learning_rate": max(group["lr"] for group in self.optimizer.param_groups),
            "photos_per_second": round(speed, 1),
            "waited": round(waited, 3),
        }
        self._write(line | figures)
        self.report.progress(
            Progress(
                "train",
                self.step,
                self.total,
                photos_per_second=speed,
                seconds_left=left,
                terms={name: value for name, value in figures.items() if name != GRADIENT},
            )
        )

    def _evaluate(self) -> None:
        with self.ema.applied(self.plain):
            figures = dict(self.evaluate())
        if figures:
            self._write({"step": self.step, **{name: round(value, 4) for name, value in figures.items()}})
            summary = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
            self.report.say(f"Step {self.step}: {summary}")
        self.student.train()

    def _write(self, line: Mapping[str, Any]) -> None:
        if self.accelerator.is_main_process:
            try:
                append_to_log(self.out / LOG, line)
            except OSError as error:
                self.report.say(f"The log cannot be written ({error}); training continues.")
            self.trackers.write(line)

    def _try_save(self, then: str = "training continues, and the previous state is kept") -> None:
        try:
            self.save()
        except AnytagError as error:
            self.report.say(f"{error}; {then}.")

    def save(self) -> None:
        """Write OUT/state.pt, atomically.

        Raises:
            AnytagError: it cannot be written.
        """
        model, optimizer = self._full_state()
        average = gathered(self.ema.shadow)
        if self.accelerator.is_main_process:
            state = {
                "step": self.step,
                "recipe": asdict(self.recipe),
                "data": self.dataset.key,
                "sources": self.sources,
                "student": model,
                "optimizer": optimizer,
                "average": average,
                "average_steps": self.ema.steps,
                "scaler": self._scaler_state(),
            }
            write_state(self.out / STATE, state)

    def resume(self) -> None:
        """Resume from OUT/state.pt, if it exists.

        Raises:
            AnytagError: the state is damaged, or of other data, or its recipe differs in more than `steps`.
        """
        path = self.out / STATE
        if not path.exists():
            return
        state = read_state(path)
        check_same(path, state, recipe=asdict(self.recipe), data=self.dataset.key, sources=self.sources)
        try:
            self._load_full(state)
        except (RuntimeError, KeyError, ValueError) as error:
            why = str(error).strip().partition("\n")[0]
            raise AnytagError(f"{path} is of another network ({why}): give another folder") from error
        for name, tensor in self.ema.shadow.items():
            fill(tensor, state["average"].get(name, state["student"].get(name)))
        self.ema.steps, self.step = state["average_steps"], state["step"]
        if (scaler := self.accelerator.scaler) is not None and state.get("scaler"):
            scaler.load_state_dict(state["scaler"])
        self.report.say(f"Resuming from step {self.step} of {self.total}.")

    def _finish(self) -> None:
        """Write OUT/student.pt: the averaged weights, without tensors that only training needs."""
        model, _ = self._full_state()
        result = {**model, **gathered(self.ema.shadow)}
        result |= {name: result[name].reshape(()) for name in self.lifted if name in result}
        if self.accelerator.is_main_process:
            tensors = {name: t for name, t in result.items() if not name.startswith(self.training_only)}
            write_tensors(self.out / STUDENT, tensors)
        self.trackers.close()

    def _scaler_state(self) -> Any:
        scaler = self.accelerator.scaler
        return {} if scaler is None else scaler.state_dict()

    def _full_state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Full state of student and optimizer, gathered if they are sharded; a collective operation."""
        if not self.sharded:
            return self.plain.state_dict(), self.optimizer.state_dict()
        return full_state(self.student, self.optimizer.optimizer)

    def _load_full(self, state: Mapping[str, Any]) -> None:
        if not self.sharded:
            self.plain.load_state_dict(state["student"])
            self.optimizer.load_state_dict(state["optimizer"])
            return
        load_full_state(self.plain, self.optimizer.optimizer, state)


def accelerator_of(recipe: Recipe, run_options: RunOptions) -> Accelerator:
    """Create the accelerator of a run: device, precision, processes.

    Raises:
        AnytagError: its FSDP configuration is not supported.
    """
    accelerator = Accelerator(
        mixed_precision=recipe.precision, dynamo_backend="inductor" if run_options.compile else None
    )
    if accelerator.distributed_type == DistributedType.FSDP:
        check_wrapping(accelerator)
    return accelerator


def checkpoint_parts(parts: nn.ModuleList) -> None:
    """Apply gradient checkpointing to each of the parts."""
    for part in parts:
        part.forward = partial(checkpoint, part.forward, use_reentrant=False)
