"""A run's files: its whole state, written atomically, and its log, which a resumed run goes on with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anytag.errors import AnytagError

STATE, LOG, STUDENT = "state.pt", "log.jsonl", "student.pt"


def write_tensors(path: Path, state: Mapping[str, Any]) -> None:
    """`torch.save`, but whoever reads sees the old file or the new one, and a full disk leaves the old one.

    Raises:
        AnytagError: it cannot be written; says why.
    """
    partial = path.with_suffix(".partial")
    try:
        torch.save(dict(state), partial)
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise AnytagError(f"{path} cannot be written ({str(error).splitlines()[0]})") from error


def flat(numbers: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A recipe's numbers by the keys of the command line: {"weights": {"tag": 1}} -> "weights.tag"."""
    found: dict[str, Any] = {}
    for key, value in numbers.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found


def changed_numbers(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs from the stored recipe, `steps` apart, as "key=value, was value"."""
    was, given = flat(stored), flat(now)
    keys = [key for key in given if key != "steps" and _plain(was.get(key)) != _plain(given[key])]
    return [f"{key}={given[key]}, was {was.get(key)}" for key in keys]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def cut_log(path: Path, step: int) -> None:
    """Drops what a killed run logged after the state that is resumed: those steps come again."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        path.write_text("".join(kept), encoding="utf-8")


def add_to_log(path: Path, line: Mapping[str, Any]) -> None:
    """One JSON object more."""
    with path.open("a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")


class Average:
    """Exponential moving average of all trained tensors, by all of their names: some have two."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        named = model.named_parameters(remove_duplicate=False)
        self.shadow = {name: p.detach().clone() for name, p in named if p.requires_grad}

    def update(self, model: nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        named = dict(model.named_parameters(remove_duplicate=False))
        now = [named[name].detach() for name in self.shadow]
        torch._foreach_lerp_(list(self.shadow.values()), now, 1 - decay)

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        """The model's state with the averages in place."""
        return {**model.state_dict(), **self.shadow}
