"""Options that several commands share."""

from __future__ import annotations

import math
from typing import Any

import click


class Number(click.FloatRange):
    """A number in a range, which "nan" is not: every comparison of click's lets it through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number


def _max_pixels() -> int:
    from anytag.images import MAX_PIXELS  # NumPy and Pillow, which --help need not wait for

    return MAX_PIXELS


max_pixels = click.option(
    "--max-pixels",
    metavar="N",
    type=click.IntRange(min=1),
    default=_max_pixels,
    show_default="178956970",
    help="Refuse photos with more pixels as decoded: large JPEGs are at 1/2, 1/4 or 1/8 of their sides.",
)
