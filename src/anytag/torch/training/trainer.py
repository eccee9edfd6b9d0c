"""The loop: steps, rates, logs, checkpoints. What is trained and from what data, its subclasses say.

Everything random in a step follows from the seed and the step's number, so a run that is killed and started
again goes on as if nothing had happened: same order of photos, same loss, same weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from anytag.errors import AnytagError
from anytag.torch.training.checkpoint import (
    LOG,
    STATE,
    STUDENT,
    Average,
    add_to_log,
    check_same,
    cut_log,
    read_state,
    write_state,
    write_tensors,
)
from anytag.torch.training.loggers import Trackers
from anytag.torch.training.meters import Clock, Means
from anytag.torch.training.report import Progress, Reporter
from anytag.torch.training.sharded import check_parted, fill, gathered, lift_scalars, load_whole, whole_state

SKIPPED = 5
"""Steps in a row without a finite gradient that end a run; fewer are left out."""
OVERFLOWS = 25
"""The same in fp16 while the loss is finite: each halves the scale of the gradients, which is meant to be."""

GRADIENT = "gradient_norm"


@dataclass(frozen=True)
class Machine:
    """How a run is run, as opposed to what it learns.

    None of this changes the result beyond rounding, but for `accumulate` and the number of processes: batch
    norms take the statistics of the photos that are computed together, dropout draws its masks for each part,
    and captions are each other's negatives within a part.

    Attributes:
        accumulate: parts that a process takes a step's photos in, one after the other.
        compile: torch.compile, worth it on a GPU.
        checkpointing: activations of stages and layers are computed again rather than kept.
        workers: processes that read photos.
        log_every: steps between two lines of the log.
        save_minutes: between two states.
        tensorboard: curves in OUT/tensorboard, where the package is installed.
        wandb: name of a Weights & Biases project; none when empty.
    """

    accumulate: int = 1
    compile: bool = False
    checkpointing: bool = False
    workers: int = 2
    log_every: int = 20
    save_minutes: float = 4.0
    tensorboard: bool = True
    wandb: str = ""


class Loop:
    """Trains a student; its whole state can be written and read at any step.

    Args:
        student: an `nn.Module` whose `forward` takes a batch and returns every term of the loss, a mean over
            the photos it was given, and "loss".
        recipe: a dataclass with at least steps, batch_size, weight_decay, seed, ema and precision.
        out: where state, log and result are written.
    """

    shared: ClassVar[frozenset[str]] = frozenset()  # fields of a batch that are not one a photo
    clip: float = 200.0  # of the gradient's norm
    helpers: ClassVar[tuple[str, ...]] = ()  # tensors of the state that only training needs begin so

    def __init__(
        self,
        student: nn.Module,
        recipe: Any,
        out: Path,
        *,
        machine: Machine | None = None,
        report: Reporter | None = None,
    ) -> None:
        self.recipe, self.out = recipe, out
        self.machine = machine or Machine(save_minutes=getattr(recipe, "save_minutes", 4.0))
        self.report = report or Reporter()
        self.accelerator = Accelerator(
            mixed_precision=recipe.precision, dynamo_backend="inductor" if self.machine.compile else None
        )
        self.sharded = self.accelerator.distributed_type == DistributedType.FSDP
        self.lifted = frozenset[str]()
        if self.sharded:
            check_parted(self.accelerator)
            self.lifted = lift_scalars(student)
        groups = self.groups(student)
        self.peaks = [group["lr"] for group in groups]
        optimizer = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay, foreach=True)
        self.total: int = recipe.steps
        self.plain = student
        self.student, self.optimizer = self.accelerator.prepare(student, optimizer)
        self.average = Average(student, recipe.ema)
        self.step, self.skipped = 0, 0
        self.means = Means()
        self.trackers = Trackers()

    # What a subclass says.

    def groups(self, student: Any) -> list[dict[str, Any]]:
        """What is trained, at which peak learning rates: parameter groups of the optimizer."""
        raise NotImplementedError

    def steps_per_epoch(self) -> int:
        """Whole batches in the data; 0 is an error of the data."""
        raise NotImplementedError

    def batches(self, epoch: int, *, start: int) -> Iterator[Any]:
        """The steps of an epoch, from `start` on; always the same, in every process."""
        raise NotImplementedError

    def rate(self, step: int) -> float:
        """Learning rate at a step, as a part of its peak: a straight rise, then a cosine to zero."""
        warm: float = min(1.0, (step + 1) / max(1, self.recipe.warmup))
        return warm * 0.5 * (1 + math.cos(math.pi * step / self.total))

    def after_step(self) -> None:
        """What follows a step of the optimizer."""

    def data_key(self) -> str:
        """Of the rows and tags that are learned from: a run goes on only where they are the same."""
        return ""

    def evaluate(self) -> Mapping[str, float]:
        """Figures on held-out photos with the averaged weights, after every epoch, in every process."""
        return {}

    def stream(self) -> Iterator[Any]:
        """Batches from the present step to the last."""
        step, per_epoch = self.step, self.steps_per_epoch()
        while step < self.total:
            epoch, start = divmod(step, per_epoch)
            for batch in islice(self.batches(epoch, start=start), self.total - step):
                yield batch
                step += 1

    # The run.

    def run(self) -> None:
        """Trains to the end and writes OUT/student.pt.

        Raises:
            AnytagError: there is less data than a batch takes, the loss is not finite for several steps, or
                the result cannot be written.
        """
        self.trackers.open(self)
        per_epoch = self.steps_per_epoch()
        clock = Clock(self.step)
        self.student.train()
        stream = self.stream()
        while (batch := clock.waiting(stream)) is not None:
            self._step(batch)
            if self.step % self.machine.log_every == 0 or self.step == self.total:
                self._log(clock)
            if self.step % per_epoch == 0 or self.step == self.total:
                self._judge()
            if clock.since_save() > self.machine.save_minutes * 60:
                self._save_or_say()
                clock.saved = time.monotonic()
        self._finish()  # first: it is a third of the state's size, and what the run is for
        self._save_or_say("the result is written, but the run cannot be prolonged")

    def _step(self, batch: Any) -> dict[str, Tensor]:
        torch.manual_seed(hash((self.recipe.seed, self.step)) % 2**31)  # dropped descriptions and residuals
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * self.rate(self.step)
        terms = self._backward(self._share(batch))
        if self._update(terms):
            self.average.update(self.plain)
            self.after_step()
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

    def _backward(self, batch: Any) -> dict[str, Tensor]:
        """Gradients of this process's photos, in parts; the terms are means over the parts."""
        parts = self.machine.accumulate
        sums: dict[str, Tensor] = {}
        for number in range(parts):
            last = number == parts - 1
            with nullcontext() if last else self.accelerator.no_sync(self.student):
                terms: dict[str, Tensor] = self.student(self._take(batch, slice(number, None, parts)))
                self.accelerator.backward(terms["loss"] / parts)
            for name, value in terms.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value.detach() / parts
        return sums

    def _skip(self, terms: Mapping[str, Tensor]) -> None:
        """Leaves a step out: one bad batch should not cost a run, weights that are lost should."""
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

    def _share(self, batch: Any) -> Any:
        """This process's photos of a batch, on its device."""
        accelerator = self.accelerator
        mine = self._take(batch, slice(accelerator.process_index, None, accelerator.num_processes))
        return self._move(mine)

    def _take(self, batch: Any, part: slice) -> Any:
        """Some photos of a batch."""
        if part == slice(0, None, 1):
            return batch
        parts = {f.name: getattr(batch, f.name) for f in fields(batch)}
        cut = {k: v if v is None or k in self.shared else v[part] for k, v in parts.items()}
        return type(batch)(**cut)

    def _move(self, batch: Any) -> Any:
        parts = {f.name: getattr(batch, f.name) for f in fields(batch)}
        device = self.accelerator.device
        return type(batch)(**{k: None if v is None else v.to(device) for k, v in parts.items()})

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
            "epoch": (self.step - 1) // self.steps_per_epoch(),
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
        with self.average.applied(self.plain):
            figures = dict(self.evaluate())
        if figures:
            self._write({"step": self.step, **{name: round(value, 4) for name, value in figures.items()}})
            told = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
            self.report.say(f"Step {self.step}: {told}")
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
        average = gathered(self.average.shadow)
        if self.accelerator.is_main_process:
            state = {
                "step": self.step,
                "recipe": asdict(self.recipe),
                "data": self.data_key(),
                "student": model,
                "optimizer": optimizer,
                "average": average,
                "average_steps": self.average.steps,
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
        check_same(path, state, recipe=asdict(self.recipe), data=self.data_key())
        try:
            self._load_full(state)
        except (RuntimeError, KeyError, ValueError) as error:
            why = str(error).strip().partition("\n")[0]
            raise AnytagError(f"{path} is of another network ({why}): name another folder") from error
        for name, tensor in self.average.shadow.items():
            fill(tensor, state["average"].get(name, state["student"].get(name)))
        self.average.steps, self.step = state["average_steps"], state["step"]
        if (scaler := self.accelerator.scaler) is not None and state.get("scaler"):
            scaler.load_state_dict(state["scaler"])
        if self.accelerator.is_main_process:
            cut_log(self.out / LOG, self.step)
        self.report.say(f"Goes on from step {self.step} of {self.total}.")

    def _finish(self) -> None:
        """OUT/student.pt: the model's state with the averages in place, without what only training needs."""
        model, _ = self._full_state()
        result = {**model, **gathered(self.average.shadow)}
        result |= {name: result[name].reshape(()) for name in self.lifted if name in result}
        if self.accelerator.is_main_process:
            kept = {name: t for name, t in result.items() if not name.startswith(self.helpers)}
            write_tensors(self.out / STUDENT, kept)
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


def checkpoint_parts(parts: nn.ModuleList) -> None:
    """Activations within each of the parts are computed again in the backward pass rather than kept."""
    for part in parts:
        part.forward = partial(checkpoint, part.forward, use_reentrant=False)
