"""Files of a run: its state, written atomically, and its log, which a resumed run continues."""

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
REQUIRED_KEYS = {"step", "student", "optimizer", "average", "average_steps"}


def write_tensors(path: Path, state: Mapping[str, Any]) -> None:
    """`torch.save`, but atomic: readers see the old file or the new one, and a failure leaves the old one.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_write(path) as draft, draft.open("wb") as file:
        writer = _Writer(file)
        try:
            torch.save(dict(state), cast("IO[bytes]", writer))  # torch uses no other methods
        except Exception as error:
            raise writer.error or error from error


class _Writer:
    """A file that keeps the OSError of a failed write, since torch's own error does not have the reason."""

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
    """Write a state with `write_tensors` and keep the previous one as PREVIOUS.

    Raises:
        OutputError: the file cannot be written; the last state is unchanged.
    """
    previous = path.with_name(PREVIOUS)
    with suppress(FileNotFoundError):
        previous.unlink()  # first, so that the disk holds no more than two states
    with suppress(OSError):
        previous.hardlink_to(path)  # fails if the file system has no links, or there is no state yet
    write_tensors(path, state)


def read_state(path: Path) -> dict[str, Any]:
    """Read the state that `write_state` wrote, and verify its checksums.

    Raises:
        AnytagError: the file is damaged, or not a state; the message says how to continue without it.
    """
    previous = path.with_name(PREVIOUS)
    ways = f"remove it to start again, or give another folder{_alternative(path, previous)}"
    try:
        check_sums(path)
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # of many types, in a damaged file
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if isinstance(error, pickle.UnpicklingError):
            why = "it holds more than tensors and numbers"
        raise AnytagError(f"{path} is damaged or not a training state ({why}): {ways}") from error
    if not isinstance(state, dict) or (lacks := sorted(REQUIRED_KEYS - set(state))):
        why = f"it lacks {', '.join(lacks)}" if isinstance(state, dict) else type(state).__name__
        raise AnytagError(f"{path} is not a training state ({why}): {ways}")
    return state


def _alternative(path: Path, previous: Path) -> str:
    return f"; or resume from the previous state: mv {previous} {path}" if previous.is_file() else ""


def has_state(out: Path) -> bool:
    """Whether a folder has the state of a run, with which the other files there belong together."""
    return (out / STATE).exists()


def flatten(numbers: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a recipe to the keys of the command line: {"weights": {"tag": 1}} -> {"weights.tag": 1}."""
    values: dict[str, Any] = {}
    for key, value in numbers.items():
        values |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return values


def changed_fields(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Fields other than `steps` that differ from the stored recipe, as "key=value, was value"."""
    was, current = flatten(stored), flatten(now)
    keys = [key for key in current if key != "steps" and _plain(was.get(key)) != _plain(current[key])]
    return [f"{key}={current[key]}, was {was.get(key)}" for key in keys]


def check_same(
    path: Path, state: Mapping[str, Any], *,
    recipe: Mapping[str, Any], data: str, sources: Mapping[str, str],
) -> None:  # fmt: skip
    """Check that a run has the recipe and the data of its state.

    Args:
        data: hash of rows and tags.
        sources: hashes of files by the option that names them.

    Raises:
        AnytagError: the recipe differs in another field than `steps`, or the data differ.
    """
    if changed := changed_fields(state.get("recipe", {}), recipe):
        raise AnytagError(
            f"{path} is the state of a run with another recipe ({'; '.join(changed)}); "
            "give the same values (steps may differ) or another folder"
        )
    # States of older versions lack these hashes.
    changed = ["rows or vocabulary"] if state.get("data", "") not in ("", data) else []
    before = state.get("sources", {})
    changed += [f"contents of {option}" for option, sha in sources.items() if before.get(option, sha) != sha]
    if changed:
        raise AnytagError(
            f"{path} is the state of a run on other data: {', '.join(changed)} have changed since; "
            "give the same data, or another folder (--output)"
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, without those that a full disk or a killed process has cut."""
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with suppress(json.JSONDecodeError):
            entries.append(json.loads(line))
    return [entry for entry in entries if isinstance(entry, dict) and "step" in entry]


def truncate_log(path: Path, step: int) -> None:
    """Remove log lines after the step from which a run goes on: those steps are repeated.

    Raises:
        OutputError: the log cannot be written; it is unchanged.
    """
    if not path.exists():
        return
    lines = "".join(f"{json.dumps(entry)}\n" for entry in read_log(path) if entry["step"] <= step)
    if lines != path.read_text(encoding="utf-8"):
        with atomic_write(path) as draft:
            draft.write_text(lines, encoding="utf-8")


def append_to_log(path: Path, line: Mapping[str, Any]) -> None:
    """Append one JSON object to the log, on a line of its own if the last one was cut."""
    with path.open("a+b") as log:
        log.seek(max(0, log.tell() - 1))
        cut = log.read() not in (b"", b"\n")
        log.write(b"\n" * cut + json.dumps(line).encode() + b"\n")


class EMA:
    """Exponential moving average (EMA) of all trained tensors, under each of their names if they are tied.

    The statistics of batch norms are averaged too.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.shadow = {name: tensor.detach().clone() for name, tensor in averaged_tensors(model).items()}

    def update(self, model: nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        tensors = averaged_tensors(model)
        now = [tensors[name].detach() for name in self.shadow]
        torch._foreach_lerp_(list(self.shadow.values()), now, 1 - decay)

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        """The model's state with the averages in place."""
        return {**model.state_dict(), **self.shadow}

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Swap the averages into the model inside the context."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        """Swap one tensor at a time, so that no second copy of the model is needed."""
        first = {id(tensor): name for name, tensor in reversed(averaged_tensors(model).items())}
        for name, tensor in averaged_tensors(model).items():
            if first[id(tensor)] == name:
                now = tensor.detach().clone()
                tensor.copy_(self.shadow[name])
                self.shadow[name].copy_(now)


def averaged_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The averaged tensors by name: trained parameters, and the statistics of batch norms."""
    named = model.named_parameters(remove_duplicate=False)
    tensors: dict[str, Tensor] = {name: p for name, p in named if p.requires_grad}
    for prefix, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            for name in ("running_mean", "running_var"):
                tensors[f"{prefix}.{name}".lstrip(".")] = module.get_buffer(name)
    return tensors
