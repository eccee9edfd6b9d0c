"""Options and option types that several commands share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any, Literal, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def grouped(name: str, record: type, options: Iterable[Callable[[Any], Any]]) -> Callable[[F], F]:
    """A decorator that adds options whose values are passed to the command as one record.

    Args:
        name: name of the command's argument.
        record: a dataclass with a field for each option; other fields need defaults.
        options: `click.option` and `click.argument`, in the order of the help.
    """

    def add(command: F) -> F:
        @wraps(command)
        def wrapper(**values: Any) -> Any:
            values_of_record = {
                one.name: values.pop(one.name) for one in fields(record) if one.name in values
            }
            return command(**values, **{name: record(**values_of_record)})

        for option in reversed(list(options)):
            option(wrapper)
        return wrapper  # type: ignore[return-value]

    return add


class FiniteFloat(click.FloatRange):
    """A range of finite numbers: click's own ranges accept "nan"."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Convert to a finite number, or fail."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class OutputPath(click.Path):
    """A path to write to; "-" and empty values, as from an unset shell variable, are refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert to a path, or fail."""
        if value == "":
            self.fail("An empty name was given: expected a path.", param, ctx)
        if value == "-":
            self.fail("- is stdout, which is not supported here: give a path, such as ./-.", param, ctx)
        return super().convert(value, param, ctx)


class LazyChoice(click.ParamType[str]):
    """A choice whose names are looked up when a value is checked or help is shown.

    Args:
        names: returns the names.
    """

    name = "choice"

    def __init__(self, names: Callable[[], Iterable[str]]) -> None:
        self._names = names

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """[one|other]"""
        return f"[{'|'.join(self._names())}]"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the name, or fail."""
        names = list(self._names())
        if value not in names:
            self.fail(f"{value!r} is not one of {', '.join(map(repr, names))}.", param, ctx)
        return value


class LazyHelpCommand(click.Command):
    """A command that replaces `{names}` in its help by names that are looked up when it is shown."""

    def __init__(self, *args: Any, names: Callable[[], Iterable[str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._names = names

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help with the names filled in."""
        names = ", ".join(self._names())
        self.help = (self.help or "").replace("{names}", names)
        for param in self.params:
            if isinstance(param, click.Option) and param.help:
                param.help = param.help.replace("{names}", names)
        super().format_help(ctx, formatter)


def _max_pixels() -> int:
    from anytag.images import MAX_PIXELS  # imports NumPy and Pillow, which --help does not need

    return MAX_PIXELS


_MODEL_OPTIONS = (
    click.option(
        "--model", metavar="NAME|FOLDER", help="The model; see anytag models.  [default: the embedded one]"
    ),
    click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda"]),
        default="auto",
        show_default=True,
        help="Device to run on; cuda fails if it is not available.",
    ),
    click.option(
        "--batch-size",
        metavar="N",
        type=click.IntRange(min=1),
        default=8,
        show_default=True,
        help="Photos per batch.",
    ),
    click.option(
        "--workers",
        metavar="N",
        type=click.IntRange(min=1),
        help="Number of threads.  [default: one per usable core]",
    ),
    click.option(
        "--max-pixels",
        metavar="N",
        type=click.IntRange(min=1),
        default=_max_pixels,
        help="Refuse photos with more decoded pixels; large JPEGs are decoded at 1/2, 1/4 or 1/8 scale.  "
        "[default: 178956970]",
    ),
)


@dataclass(frozen=True)
class ModelOptions:
    """Options of all commands that run a model on photos."""

    model: str | None
    device: Literal["auto", "cpu", "cuda"]
    batch_size: int
    workers: int | None
    max_pixels: int


def model_options(command: F) -> F:
    """Add the options of `ModelOptions`, passed to the command as `model_options`."""
    return grouped("model_options", ModelOptions, _MODEL_OPTIONS)(command)
