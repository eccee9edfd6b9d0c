"""Steps, rates, logs, checkpoints: the one trainer, of a student, from a dataset, by a recipe.

Everything random in a step follows from the seed and the step's number, so a run that is killed and started
again goes on as if nothing had happened: same order of photos, same loss, same weights.
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
from anytag.torch.training.batch import Batch, Dataset
from anytag.torch.training.checkpoint import (
    EMA,
    LOG,
    STATE,
    STUDENT,
    add_to_log,
    check_same,
    cut_log,
    read_state,
    write_state,
    write_tensors,
)
from anytag.torch.training.distributed import everyones
from anytag.torch.training.held_out import held_out_figures, held_out_logits
from anytag.torch.training.loggers import Trackers
from anytag.torch.training.meters import Clock, Means
from anytag.torch.training.recipes import Recipe
from anytag.torch.training.report import Progress, Reporter
from anytag.torch.training.run import RunOptions
from anytag.torch.training.sharded import (
    check_wrapping,
    fill,
    gathered,
    lift_scalars,
    load_whole,
    whole_state,
)
from anytag.torch.training.student import Student

SKIPPED = 5
"""Steps in a row without a finite gradient that end a run; fewer are left out."""
OVERFLOWS = 25
"""The same in fp16 while the loss is finite: each halves the scale of the gradients, which is meant to be."""

GRADIENT = "gradient_norm"


class Trainer:
    """Trains a student; its whole state can be written and read at any step.

    Args:
        student: ready for its first step.
        dataset: this process's share of the data.
        recipe: its numbers.
        out: where state, log and result are written.
        teacher: uint8 N×3×S×S, the student's own crop -> N×D.
        accelerator: as `accelerator_of` makes it, which the dataset's share is of; made here when None.
    """

    clip: float = 200.0  # of the gradient's norm
    training_only = ("momentum.",)
    """How the names of tensors begin that only training needs."""

    def __init__(
        self,
        student: Student,
        dataset: Dataset,
        recipe: Recipe,
        out: Path,
        *,
        teacher: Callable[[Tensor], Tensor] | None = None,
        run_options: RunOptions | None = None,
        accelerator: Accelerator | None = None,
        report: Reporter | None = None,
    ) -> None:
        self.recipe, self.out, self.dataset = recipe, out, dataset
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
        """Learning rate at a step, as a part of its peak."""
        recipe, per_epoch = self.recipe, self.dataset.steps_per_epoch()
        now = recipe.schedule.learning_rate(
            step, rate=recipe.rate, warmup=recipe.warmup, total=self.total, per_epoch=per_epoch
        )
        return now / recipe.rate if recipe.rate else 0.0

    def evaluate(self) -> Mapping[str, float]:
        """Figures on held-out photos with the present weights, in every process; none without photos."""
        if self.dataset.truth is None:
            return {}
        return held_out_figures(self.held_out_logits(), self.dataset.truth)

    def held_out_logits(self) -> Floats:
        """Of every tag in the held-out photos, with the present weights: N×K; every process has to ask."""
        found = held_out_logits(self.plain, self.dataset)
        if self.sharded:
            self.plain.reshard()  # type: ignore[operator]  # what fully_shard added
        return found

    def take_averages(self) -> None:
        """The student becomes the result: the averaged weights, for evaluation; in every process."""
        self.plain.load_state_dict(self.ema.state(self.plain))
        self.plain.eval()

    # The run.

    def fit(self) -> None:
        """Trains to the end and writes OUT/student.pt.

        Raises:
            AnytagError: there is less data than a batch takes, the loss is not finite for several steps, or
                the result cannot be written.
        """
        self.trackers.open(self)
        per_epoch = self.dataset.steps_per_epoch()
        clock = Clock(self.step)
        self.student.train()
        stream = self.dataset.stream(self.step, self.total)
        while (batch := clock.waiting(stream)) is not None:
            self._step(batch)
            if self.step % self.run_options.log_every == 0 or self.step == self.total:
                self._log(clock)
            if self.step % per_epoch == 0 or self.step == self.total:
                self._judge()
            if clock.since_save() > self.run_options.save_minutes * 60:
                self._save_or_say()
                clock.saved = time.monotonic()
        self._finish()  # first: it is a third of the state's size, and what the run is for
        self._save_or_say("the result is written, but the run cannot be prolonged")
        for tally in self.dataset.tallies:
            for line in everyones(tally).lines():
                self.report.say(line)

    def _step(self, batch: Batch) -> dict[str, Tensor]:
        torch.manual_seed(hash((self.recipe.seed, self.step)) % 2**31)  # dropped descriptions and residuals
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * self.rate(self.step)
        terms = self._backward(self._at_hand(batch))
        if self._update(terms):
            self.ema.update(self.plain)
            self.plain.follow()
            self.skipped = 0
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return terms

    def _update(self, terms: Mapping[str, Tensor]) -> bool:
        """A step of the optimizer, if the gradient is finite."""
        norm = self.accelerator.clip_grad_norm_(self.student.parameters(), self.clip)
        finite = norm is None or bool(torch.isfinite(norm))
        if finite:
            self.optimizer.step()
            self.means.add(terms if norm is None else {**terms, **gathered({GRADIENT: norm})})
            return True
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.update()  # lowers the scale in fp16, where this is how it is found
        self._skip(terms)
        return False

    def _backward(self, batch: Batch) -> dict[str, Tensor]:
        """Gradients of this process's photos, in parts; the terms are means over the parts."""
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
        """Skips a step with non-finite gradients; aborts after several in a row."""
        self.skipped += 1
        loss, scaler = terms["loss"].item(), self.accelerator.scaler
        overflow = scaler is not None and math.isfinite(loss)
        if self.skipped >= (OVERFLOWS if overflow else SKIPPED):
            raise AnytagError(
                f"step {self.step}: {self.skipped} steps in a row without a finite gradient (the loss is "
                f"{loss}); start a new folder with lower learning rates{', or precision=bf16' * overflow}"
            )
        why = f"its gradient is not finite (the loss is {loss})"
        if overflow and scaler is not None:
            why = f"its gradient overflows in fp16; gradients are scaled by {scaler.get_scale():g} now"
        self.report.say(f"Step {self.step} is left out: {why}.")

    def _at_hand(self, batch: Batch) -> Batch:
        """The batch on its device, with what the teacher makes of it."""
        batch = batch.to(self.accelerator.device)
        if self.teacher is None or batch.pixels is None:
            return batch
        with torch.no_grad():
            return replace(batch, teacher=self.teacher(batch.pixels))

    # What is written.

    def _log(self, clock: Clock) -> None:
        """Means since the last line, over the photos of all processes."""
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

    def _judge(self) -> None:
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
                add_to_log(self.out / LOG, line)
            except OSError as error:
                self.report.say(f"The log cannot be written ({error}); training goes on.")
            self.trackers.write(line)

    def _save_or_say(self, then: str = "training goes on, and the state before it is kept") -> None:
        try:
            self.save()
        except AnytagError as error:
            self.report.say(f"{error}; {then}.")

    def save(self) -> None:
        """Writes OUT/state.pt, atomically.

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
                "student": model,
                "optimizer": optimizer,
                "average": average,
                "average_steps": self.ema.steps,
                "scaler": self._scaler_state(),
            }
            write_state(self.out / STATE, state)

    def resume(self) -> None:
        """Goes on from OUT/state.pt, if it is there.

        Raises:
            AnytagError: the state is damaged, or of a run with another recipe, of which only `steps` may
                differ, or with other data.
        """
        path = self.out / STATE
        if not path.exists():
            return
        state = read_state(path)
        check_same(path, state, recipe=asdict(self.recipe), data=self.dataset.key)
        try:
            self._load_full(state)
        except (RuntimeError, KeyError, ValueError) as error:
            why = str(error).strip().partition("\n")[0]
            raise AnytagError(f"{path} is of another network ({why}): name another folder") from error
        for name, tensor in self.ema.shadow.items():
            fill(tensor, state["average"].get(name, state["student"].get(name)))
        self.ema.steps, self.step = state["average_steps"], state["step"]
        if (scaler := self.accelerator.scaler) is not None and state.get("scaler"):
            scaler.load_state_dict(state["scaler"])
        if self.accelerator.is_main_process:
            cut_log(self.out / LOG, self.step)
        self.report.say(f"Goes on from step {self.step} of {self.total}.")

    def _finish(self) -> None:
        """OUT/student.pt: the model's state with the averages in place, without what only training needs."""
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
        """State of model and optimizer, whole even where they are sharded; every process has to ask."""
        if not self.sharded:
            return self.plain.state_dict(), self.optimizer.state_dict()
        return whole_state(self.student, self.optimizer.optimizer)

    def _load_full(self, state: Mapping[str, Any]) -> None:
        if not self.sharded:
            self.plain.load_state_dict(state["student"])
            self.optimizer.load_state_dict(state["optimizer"])
            return
        load_whole(self.plain, self.optimizer.optimizer, state)


def accelerator_of(recipe: Recipe, run_options: RunOptions) -> Accelerator:
    """Device, precision and processes of a run.

    Raises:
        AnytagError: tensors are to be sharded in a way that is not known here.
    """
    accelerator = Accelerator(
        mixed_precision=recipe.precision, dynamo_backend="inductor" if run_options.compile else None
    )
    if accelerator.distributed_type == DistributedType.FSDP:
        check_wrapping(accelerator)
    return accelerator


def checkpoint_parts(parts: nn.ModuleList) -> None:
    """Activations within each of the parts are computed again in the backward pass rather than kept."""
    for part in parts:
        part.forward = partial(checkpoint, part.forward, use_reentrant=False)
