"""An HTML page about a review table, with inline SVG: frequencies of names, and proposals with reasons."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from itertools import accumulate
from pathlib import Path

from anytag._io import atomic_write, begins_with
from anytag.data.io import refuse_output
from anytag.data.vocabulary.review import ACTIONS, ReviewRow
from anytag.errors import RefusedOutputError
from anytag.vocabulary import KINDS

_WIDTH, _HEIGHT, _MARGIN = 520, 220, 46
_POINTS = 200  # maximum points of a curve
_ROWS = 200  # maximum rows of a table
_DRAWN = ("keep", "merge", "drop")
_COLORS = {"object": "#4063d8", "scene": "#389826", "attribute": "#cb3c33", "action": "#9558b2"}

_HEAD = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Candidates of a vocabulary</title>
"""
_PAGE = """<style>
body {{ font: 15px/1.45 system-ui, sans-serif; max-width: 70rem;
margin: 2rem auto; padding: 0 1rem }}
figure {{ display: inline-block; margin: 0 1rem 1rem 0 }} figcaption {{ color: #555 }}
svg {{ background: #fafafa }} svg text {{ font-size: 11px; fill: #444 }}
table {{ border-collapse: collapse }} td.n {{ text-align: right }}
td, th {{ padding: .2rem .7rem; text-align: left; border-bottom: 1px solid #ddd; vertical-align: top }}
</style>
<h1>Candidates of a vocabulary</h1>
{body}
</html>
"""


def page(rows: Sequence[ReviewRow]) -> str:
    """Render the page."""
    counts = sorted((row.count for row in rows if row.count), reverse=True)
    ranks = [(float(rank), float(count)) for rank, count in enumerate(counts, 1)]
    total = sum(counts) or 1
    covered = [(float(rank), 100 * n / total) for rank, n in enumerate(accumulate(counts), 1)]
    body = [
        _summary(rows),
        _figure("How often the name of each rank is used (both axes logarithmic)", curve(ranks, log=True)),
        _figure("Share of all mentions that the first names cover, in percent", curve(covered)),
        _figure("Names of each kind: kept, merged, dropped", bars(rows)),
        _table("Merged, or perhaps", [row for row in rows if row.into], ("name", "into", "count", "why")),
        _table("Dropped", [row for row in rows if row.action == "drop"], ("name", "kind", "count", "why")),
        _table("Kept", [row for row in rows if row.action == "keep"], ("name", "kind", "count", "examples")),
    ]
    return _HEAD + _PAGE.format(body="\n".join(body))


def check_page(path: Path, inputs: Iterable[str]) -> None:
    """Check, before long work, that a page may be written to `path`.

    Raises:
        OutputError: `path` is an input or another output, a photo, or a file that exists and is no such page.
    """
    if path.absolute() in [Path(one).absolute() for one in inputs]:
        raise RefusedOutputError(f"{path} is given twice: give another file for the page")
    refuse_output(str(path), inputs, begins_with(_HEAD.encode()), "an earlier page")


def write_page(path: Path, rows: Sequence[ReviewRow]) -> None:
    """Write the page, atomically.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_write(path) as draft:
        draft.write_text(page(rows), "utf-8")


def curve(points: Sequence[tuple[float, float]], *, log: bool = False) -> str:
    """Draw a line through points with positive x and y, as SVG; long lines are subsampled."""
    if not points:
        return "<p>Nothing to show.</p>"
    every = max(1, len(points) // _POINTS)
    sampled_points = [*points[: _POINTS // 4], *points[_POINTS // 4 :: every], points[-1]]
    scale = math.log10 if log else float
    (left, right), (low, high) = ((min(a), max(a)) for a in zip(*points, strict=True))
    low = low if log else 0.0
    x_of = _Axis(scale(left), scale(right), _MARGIN, _WIDTH - 10)
    y_of = _Axis(scale(low), scale(high), _HEIGHT - _MARGIN / 2, 10)
    path = " ".join(f"{x_of(scale(x)):.1f},{y_of(scale(y)):.1f}" for x, y in sampled_points)
    labels = [
        _text(_MARGIN, _HEIGHT - 6, f"{left:,.0f}"),
        _text(_WIDTH - 10, _HEIGHT - 6, f"{right:,.0f}", anchor="end"),
        _text(_MARGIN - 4, _HEIGHT - _MARGIN / 2, f"{low:,.0f}", anchor="end"),
        _text(_MARGIN - 4, 16, f"{high:,.0f}", anchor="end"),
    ]
    return _svg(f'<polyline fill="none" stroke="#4063d8" stroke-width="2" points="{path}"/>', *labels)


def bars(rows: Sequence[ReviewRow]) -> str:
    """Draw one bar per kind, with shades from dark to light for kept, merged and dropped names."""
    counts = {kind: _by_action([row for row in rows if row.kind == kind]) for kind in KINDS}
    most = max(sum(shares) for shares in counts.values()) or 1
    svg_bars = []
    for number, (kind, shares) in enumerate(counts.items()):
        x, y = 80.0, 12 + number * 50
        svg_bars.append(_text(74, y + 22, kind, anchor="end"))
        for action, count, shade in zip(_DRAWN, shares, (1.0, 0.55, 0.25), strict=True):
            width = (_WIDTH - 140) * count / most
            svg_bars.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="32" fill="{_COLORS[kind]}" '
                f'opacity="{shade}"><title>{action} {count}</title></rect>'
            )
            x += width
        svg_bars.append(_text(x + 5, y + 22, " / ".join(map(str, shares))))
    return _svg(*svg_bars)


def _by_action(rows: Sequence[ReviewRow]) -> tuple[int, ...]:
    """Number of rows that are kept, merged and dropped."""
    return tuple(sum(row.action == action for row in rows) for action in _DRAWN)


def _summary(rows: Sequence[ReviewRow]) -> str:
    counts = ", ".join(f"{sum(row.action == action for row in rows):,} {action}" for action in ACTIONS)
    return f"<p>{len(rows):,} names: {counts}. {sum(row.count for row in rows):,} mentions in captions.</p>"


def _figure(caption: str, drawing: str) -> str:
    return f"<figure>{drawing}<figcaption>{escape(caption)}</figcaption></figure>"


def _table(title: str, rows: Sequence[ReviewRow], columns: Sequence[str]) -> str:
    body = "".join(
        "<tr>" + "".join(_cell(getattr(row, column)) for column in columns) + "</tr>\n"
        for row in rows[:_ROWS]
    )
    more = f"<p>and {len(rows) - _ROWS:,} more</p>" if len(rows) > _ROWS else ""
    head = "".join(f"<th>{column}</th>" for column in columns)
    return f"<h2>{escape(title)} ({len(rows):,})</h2>\n<table><tr>{head}</tr>\n{body}</table>{more}"


def _cell(value: object) -> str:
    if isinstance(value, int):
        return f'<td class="n">{value:,}</td>'
    return f"<td>{escape(value[0] if value else '') if isinstance(value, tuple) else escape(str(value))}</td>"


class _Axis:
    """Maps values in start..end to pixels in at_start..at_end."""

    def __init__(self, start: float, end: float, at_start: float, at_end: float) -> None:
        self._start, self._at = start, at_start
        self._slope = (at_end - at_start) / ((end - start) or 1.0)

    def __call__(self, value: float) -> float:
        return self._at + (value - self._start) * self._slope


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(*parts: str) -> str:
    size = f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size}>{"".join(parts)}</svg>'
