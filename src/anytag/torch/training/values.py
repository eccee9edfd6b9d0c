"""Apply `key=value` pairs to a dataclass; each value is checked for its type, range and choices."""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Iterable
from dataclasses import asdict, fields, is_dataclass, replace
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from anytag.errors import AnytagError
from anytag.torch.training.checkpoint import flatten

R = TypeVar("R")
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_MAX_COUNT = 10**9
_MAX_SEED = 2**32 - 1


class Range(NamedTuple):
    """Numbers from `low` to `high`; open ends are excluded."""

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: object) -> bool:
        assert isinstance(value, int | float)
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below and math.isfinite(value)

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.open_low else f"{self.low:g} or more"
        high = f"below {self.high:g}" if self.open_high else f"at most {self.high:g}"
        return low if self.high == math.inf else f"{low}, {high}"


_POSITIVE, _COUNT = Range(0, open_low=True), Range(0, _MAX_COUNT)
_SHARE, _PART = Range(0, 1), Range(0, 1, open_high=True)
_RATE, _SIDE, _WEIGHT = Range(0, 100, open_low=True), Range(1, 2**16), Range(0, 1e6)
_DEFAULTS: dict[type, Range] = {int: Range(1, _MAX_COUNT), float: Range(0)}
RANGES: dict[str, Range] = {
    **dict.fromkeys(("steps", "warmup", "sampled_tags"), _COUNT),
    "rate": _RATE,
    **dict.fromkeys(("least", "warmup_rate", "backbone_rate"), Range(0, 100)),
    **dict.fromkeys(("trust", "unguided", "kept", "mean"), _SHARE),
    **dict.fromkeys(("ema", "held_out", "smoothing", "drop_path", "clip"), _PART),
    **dict.fromkeys(("width", "heads", "hidden", "mlp", "space", "positions", "tag_length", "window"), _SIDE),
    **dict.fromkeys(("tag", "caption", "coarse", "contrast", "match", "subject", "distillation"), _WEIGHT),
    **dict.fromkeys(("Weights.alignment", "weight_decay"), _WEIGHT),
    **dict.fromkeys(("gamma_neg", "alignment_gamma_neg"), Range(0, 100)),
    "temperature": _POSITIVE,
    **dict.fromkeys(("text_hidden", "shared"), Range(0, 2**16)),
    **dict.fromkeys(("layers", "depth", "depths"), Range(1, 1000)),
    **dict.fromkeys(("first", "trained"), Range(0, 9)),
    "decay": Range(0, 1, open_low=True),
    "std": Range(0, 10, open_low=True),
    "size": Range(1, 8192),
    "patch": Range(1, 1024),
    "seed": Range(0, _MAX_SEED),
}
"""Ranges by name of the field, or by class and field where a name has several meanings; other integers are 1
or more."""


def parse_numbers(recipe: R, pairs: Iterable[str]) -> R:
    """Apply `key=value` pairs to a dataclass: `key.name=value` for nested ones, commas in tuples.

    Raises:
        AnytagError: a key is unknown or given twice, or a value has a wrong type or is out of range; the
            message says what is expected.
    """
    names: set[str] = set()
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise AnytagError(f"{pair!r} has no value: give {pair}=VALUE")
        if key in names:
            raise AnytagError(f"{key} is given twice: give it once")
        names.add(key)
        recipe = _put(recipe, key, text, recipe=recipe, path="")
    return recipe


def keys_of(pairs: Iterable[str]) -> list[str]:
    """The keys that `parse_numbers` was given."""
    return [pair.partition("=")[0] for pair in pairs]


def _put(numbers: R, key: str, text: str, *, recipe: Any, path: str) -> R:
    target: Any = numbers
    name, _, rest = key.partition(".")
    here = f"{path}{name}"
    if name not in {one.name for one in fields(target)}:
        raise _unknown(path + key, recipe)
    value = getattr(target, name)
    if is_dataclass(value):
        if not rest:
            raise AnytagError(f"{here!r} is a group of values: give one of {_names(here, value)}")
        changed = _put(value, rest, text, recipe=recipe, path=f"{here}.")
    elif rest:
        if value is None:
            raise AnytagError(f"{path + key!r}: this recipe has no {here}; use another, or leave it out")
        raise _unknown(path + key, recipe)
    elif value is None:
        raise AnytagError(f"{here!r}: this recipe has no such part; use one that has it, or leave it out")
    else:
        fits = RANGES.get(f"{type(target).__name__}.{name}", RANGES.get(name))
        changed = _read(here, text, kind=get_type_hints(type(target))[name], now=value, fits=fits)
    put: R = replace(target, **{name: changed})
    return put


def _names(path: str, value: Any) -> str:
    return ", ".join(f"{path}.{one.name}" for one in fields(value))


_ALIASES = {
    "lr": "rate", "learning_rate": "rate", "batch": "batch_size", "wd": "weight_decay", "amp": "precision"
}  # fmt: skip
"""Names of fields in other programs."""


def _unknown(key: str, recipe: Any) -> AnytagError:
    known = list(flatten(asdict(recipe)))
    if (name := _ALIASES.get(key)) in known:
        return AnytagError(f"{key!r}: the recipe has no such key; the key is {name}")
    typo = difflib.get_close_matches(key, known, n=1, cutoff=0.9)
    same = [one for one in known if one.rpartition(".")[2] == key.rpartition(".")[2]]
    best = list(dict.fromkeys([*typo, *same, *difflib.get_close_matches(key, known, n=3, cutoff=0.5)]))[:4]
    if best:
        return AnytagError(f"{key!r}: the recipe has no such key; did you mean {' or '.join(best)}?")
    return AnytagError(f"{key!r}: the recipe has no such key; expected one of {', '.join(known)}")


def _read(key: str, text: str, *, kind: Any, now: Any, fits: Range | None) -> Any:
    """Parse a value by the annotation of its field."""
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(one for one in get_args(kind) if isinstance(now, get_origin(one) or one))
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise _wrong(key, text, f"one of {', '.join(get_args(kind))}", now)
        return text
    if get_origin(kind) is tuple:
        return _read_tuple(key, text, kinds=get_args(kind), now=now, fits=fits)
    if kind is str:
        return _read_text(key, text, now)
    return _read_one(key, text, kind=kind, now=now, fits=fits)


def _read_tuple(
    key: str, text: str, *, kinds: tuple[Any, ...], now: Any, fits: Range | None
) -> tuple[Any, ...]:
    parts = [part.strip() for part in text.strip(" ()[]").split(",")]
    count = None if kinds[-1] is Ellipsis else len(kinds)
    if parts == [""] or (count is not None and len(parts) != count):
        many = "numbers" if count is None else f"{count} numbers"
        raise _wrong(key, text, f"{many}, comma-separated", now)
    return tuple(_read_one(key, part, kind=kinds[0], now=now, fits=fits, whole=text) for part in parts)


def _read_text(key: str, text: str, now: Any) -> str:
    if not text.isprintable():  # no NUL in a path, and nothing that recipe.json cannot hold
        raise _wrong(key, text, "printable text", now)
    return text


def _read_one(
    key: str, text: str, *, kind: Any, now: Any, fits: Range | None, whole: str | None = None
) -> Any:
    """Parse a boolean or a number in its range."""
    raw = text if whole is None else whole
    if kind is bool:
        if text.lower() not in _BOOLEANS:
            raise _wrong(key, raw, "true or false", now)
        return _BOOLEANS[text.lower()]
    fits = fits or _DEFAULTS[kind]
    what = f"a {'whole ' if kind is int else ''}number, {fits}"
    try:
        value = kind(text)
    except (ValueError, OverflowError) as error:
        raise _wrong(key, raw, what, now) from error
    if value not in fits:
        raise _wrong(key, raw, what, now)
    return value


def _wrong(key: str, text: str, expected: str, now: Any) -> AnytagError:
    current = ",".join(map(str, now)) if isinstance(now, tuple) else str(now)
    current = current.lower() if isinstance(now, bool) else current  # in the notation of the command line
    text = text if len(text) <= 60 else f"{text[:57]}..."
    return AnytagError(f"{key}={text}: expected {expected}; the recipe's value is {key}={current}")
