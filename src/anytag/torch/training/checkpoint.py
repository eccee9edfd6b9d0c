"""A run's files: its whole state, written atomically, and its log, which a resumed run goes on with."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from anytag._io import atomic_write
from anytag.errors import AnytagError
from anytag.torch.checkpoints.read import check_sums

STATE, LOG, STUDENT = "state.pt", "log.jsonl", "student.pt"
PREVIOUS = "state.previous.pt"
NEEDED = {"step", "student", "optimizer", "average", "average_steps"}


def write_tensors(path: Path, state: Mapping[str, Any]) -> None:
    """`torch.save`, but whoever reads sees the old file or the new one, and a full disk leaves the old one.

    Raises:
        OutputError: it cannot be written; says why.
    """
    with atomic_write(path) as draft, draft.open("wb") as file:
        writer = _Writer(file)
        try:
            torch.save(dict(state), cast("IO[bytes]", writer))  # all that torch asks of it
        except Exception as error:
            raise writer.error or error from error


class _Writer:
    """A file for torch, whose own errors say neither that a disk is full nor which."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """The same, and the state before stays beside it: PREVIOUS, of which there is one at most.

    Raises:
        OutputError: it cannot be written; the last state is as it was.
    """
    before = path.with_name(PREVIOUS)
    with suppress(FileNotFoundError):
        before.unlink()  # first, so that there is room for no more than two
    with suppress(OSError):
        before.hardlink_to(path)  # a file system without links, or no state yet
    write_tensors(path, state)


def read_state(path: Path) -> dict[str, Any]:
    """What `write_state` wrote, held against the checksums of its parts.

    Raises:
        AnytagError: it is damaged, or no state; says how to go on without it.
    """
    before = path.with_name(PREVIOUS)
    ways = f"remove it to begin anew, or name another folder{_instead(path, before)}"
    try:
        check_sums(path)
        state = torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, pickle.UnpicklingError) as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if isinstance(error, pickle.UnpicklingError):
            why = "it holds more than tensors and numbers"
        raise AnytagError(f"{path} is damaged or no state of a run ({why}): {ways}") from error
    if not isinstance(state, dict) or (lacks := sorted(NEEDED - set(state))):
        what = f"it lacks {', '.join(lacks)}" if isinstance(state, dict) else type(state).__name__
        raise AnytagError(f"{path} is no state of a run ({what}): {ways}")
    return state


def _instead(path: Path, before: Path) -> str:
    return f"; or go on from the state before: mv {before} {path}" if before.is_file() else ""


def flat(numbers: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A recipe's numbers by the keys of the command line: {"weights": {"tag": 1}} -> "weights.tag"."""
    values: dict[str, Any] = {}
    for key, value in numbers.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return values


def changed_numbers(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs from the stored recipe, `steps` apart, as "key=value, was value"."""
    was, current = flat(stored), flat(now)
    keys = [key for key in current if key != "steps" and _plain(was.get(key)) != _plain(current[key])]
    return [f"{key}={current[key]}, was {was.get(key)}" for key in keys]


def check_same(path: Path, state: Mapping[str, Any], *, recipe: Mapping[str, Any], data: str) -> None:
    """Whether a run goes on with what its state is of.

    Raises:
        AnytagError: another recipe, of which only `steps` may differ, or other data.
    """
    if changed := changed_numbers(state.get("recipe", {}), recipe):
        raise AnytagError(
            f"{path} is of a run with another recipe ({'; '.join(changed)}); "
            "give the same numbers (steps may differ) or name another folder"
        )
    if state.get("data", "") not in ("", data):  # "" in states of older versions
        raise AnytagError(
            f"{path} is of a run on other data: its rows or its vocabulary have changed since; "
            "give the same, or name another folder (--output)"
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def cut_log(path: Path, step: int) -> None:
    """Drops what a killed run logged after the state that is resumed: those steps come again."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        lines_kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        path.write_text("".join(lines_kept), encoding="utf-8")


def add_to_log(path: Path, line: Mapping[str, Any]) -> None:
    """One JSON object more."""
    with path.open("a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")


class EMA:
    """Exponential moving average (EMA) of all trained tensors, by all of their names: some have two.

    The statistics of batch norms are averaged with the weights that they belong to.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.shadow = {name: tensor.detach().clone() for name, tensor in averaged(model).items()}

    def update(self, model: nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        tensors = averaged(model)
        now = [tensors[name].detach() for name in self.shadow]
        torch._foreach_lerp_(list(self.shadow.values()), now, 1 - decay)

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        """The model's state with the averages in place."""
        return {**model.state_dict(), **self.shadow}

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The model with the averages in place, for as long as it is looked at."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        """One tensor after the other, so that no second copy of the model is needed."""
        first = {id(tensor): name for name, tensor in reversed(averaged(model).items())}
        for name, tensor in averaged(model).items():
            if first[id(tensor)] == name:
                now = tensor.detach().clone()
                tensor.copy_(self.shadow[name])
                self.shadow[name].copy_(now)


def averaged(model: nn.Module) -> dict[str, Tensor]:
    """What an average is taken of, by name: trained parameters, and the statistics of batch norms."""
    named = model.named_parameters(remove_duplicate=False)
    tensors: dict[str, Tensor] = {name: p for name, p in named if p.requires_grad}
    for prefix, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            for name in ("running_mean", "running_var"):
                tensors[f"{prefix}.{name}".lstrip(".")] = module.get_buffer(name)
    return tensors
