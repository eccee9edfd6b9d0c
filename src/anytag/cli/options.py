"""Options that several commands share."""

from __future__ import annotations

import click


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
