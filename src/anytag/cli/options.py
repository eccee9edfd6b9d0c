"""Options that several commands share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any, Literal, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def grouped(name: str, record: type, options: Iterable[Callable[[Any], Any]]) -> Callable[[F], F]:
    """Options whose values a command takes as one argument.

    Args:
        name: of the argument.
        record: a dataclass with a field for each option, and defaults for what there is no option for.
        options: `click.option` and `click.argument`, in the order of the help.
    """

    def add(command: F) -> F:
        @wraps(command)
        def taking_one(**values: Any) -> Any:
            held = {one.name: values.pop(one.name) for one in fields(record) if one.name in values}
            return command(**values, **{name: record(**held)})

        for option in reversed(list(options)):
            option(taking_one)
        return taking_one  # type: ignore[return-value]

    return add


class Number(click.FloatRange):
    """A range of finite numbers: "nan" is in every range of click's, and would pass all comparisons after."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number, or wrong use."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number.", param, ctx)
        return number


class Place(click.Path):
    """A path to write to that cannot be stdout. An empty name, as of a shell's variable, is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, or wrong use."""
        if value == "":
            self.fail("An empty name was given: expected a path.", param, ctx)
        if value == "-":
            self.fail("- is stdout, and this is written to a path: ./- is one of that name.", param, ctx)
        return super().convert(value, param, ctx)


class OneOf(click.ParamType[str]):
    """One of the names of a table, which is imported when a value is checked or help is shown.

    Args:
        names: looks them up.
    """

    name = "choice"

    def __init__(self, names: Callable[[], Iterable[str]]) -> None:
        self._names = names

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """[one|other]"""
        return f"[{'|'.join(self._names())}]"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name, or wrong use."""
        names = list(self._names())
        if value not in names:
            self.fail(f"{value!r} is not one of {', '.join(map(repr, names))}.", param, ctx)
        return value


class Listing(click.Command):
    """A command in whose help `{names}` stands for the names of a table, looked up when it is shown."""

    def __init__(self, *args: Any, names: Callable[[], Iterable[str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._names = names

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the help."""
        names = ", ".join(self._names())
        self.help = (self.help or "").replace("{names}", names)
        for param in self.params:
            if isinstance(param, click.Option) and param.help:
                param.help = param.help.replace("{names}", names)
        super().format_help(ctx, formatter)


def _max_pixels() -> int:
    from anytag.images import MAX_PIXELS  # NumPy and Pillow, which --help need not wait for

    return MAX_PIXELS


_RUNNING = (
    click.option(
        "--model", metavar="NAME|FOLDER", help="Model to use instead of the embedded one; see anytag models."
    ),
    click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda"]),
        default="auto",
        show_default=True,
        help="Device to run on; cuda is an error if it is not available.",
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
        help="Refuse photos with more pixels after decoding; large JPEGs are decoded at 1/2, 1/4 or 1/8 "
        "of their sides.  [default: 178956970]",
    ),
)


@dataclass(frozen=True)
class Running:
    """What runs a model on photos, and how: the same for every command that looks at them."""

    model: str | None
    device: Literal["auto", "cpu", "cuda"]
    batch_size: int
    workers: int | None
    max_pixels: int


def running(command: F) -> F:
    """The options of `Running`, as `running` of the command."""
    return grouped("running", Running, _RUNNING)(command)
