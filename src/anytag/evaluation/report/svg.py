"""Line charts as SVG text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

SIZE = 260
_LEFT, _TOP, _RIGHT, _BOTTOM = 36, 24, 16, 36
_LETTERS = 40  # of a legend, to fit into the picture
COLOURS = ("#0b6", "#d50", "#06c", "#a0a", "#888", "#b80")

Points = Sequence[tuple[float, float]]


def chart(title: str, lines: Mapping[str, Points], *, x: str, y: str, diagonal: bool = False) -> str:
    """Render an `<svg>` with lines in the unit square, and a legend.

    Args:
        lines: (x, y) points in [0, 1], by name.
        x, y: axis labels.
        diagonal: whether to draw the identity line.
    """
    parts = [f'<text class="title" x="{_LEFT}" y="14">{escape(title)}</text>', *_grid()]
    parts.append(_label(x, SIZE / 2, _TOP + SIZE + 30))
    parts.append(_label(y, 10, _TOP + SIZE / 2, rotated=True))
    if diagonal:
        parts.append(_line([(0, 0), (1, 1)], colour="#bbb", dashed=True))
    for number, (name, points) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        parts.append(_line(points, colour=colour))
        height = _TOP + SIZE - 8 - 14 * (len(lines) - 1 - number)
        parts.append(f'<text x="{_LEFT + 8}" y="{height}" fill="{colour}">{escape(_short(name))}</text>')
    width, height = _LEFT + SIZE + _RIGHT, _TOP + SIZE + _BOTTOM
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )


def _short(name: str) -> str:
    """Shorten the middle of a long name, because both ends distinguish models and folders."""
    half = (_LETTERS - 1) // 2
    return name if len(name) <= _LETTERS else f"{name[:half]}…{name[-half:]}"


def _place(x: float, y: float) -> tuple[float, float]:
    return _LEFT + SIZE * x, _TOP + SIZE * (1 - y)


def _line(points: Points, *, colour: str, dashed: bool = False) -> str:
    points_text = " ".join(f"{a:.1f},{b:.1f}" for a, b in (_place(*point) for point in points))
    style = ' stroke-dasharray="4 4"' if dashed else ""
    return f'<polyline points="{points_text}" fill="none" stroke="{colour}" stroke-width="1.5"{style}/>'


def _grid() -> list[str]:
    out = []
    for step in (0.0, 0.25, 0.5, 0.75, 1.0):
        (left, height), (right, _) = _place(0, step), _place(1, step)
        (across, low), (_, high) = _place(step, 0), _place(step, 1)
        out.append(f'<path d="M{left} {height}H{right}M{across} {low}V{high}" stroke="#ddd" fill="none"/>')
        out.append(f'<text x="{left - 4}" y="{height + 4}" text-anchor="end">{100 * step:.0f}</text>')
        out.append(f'<text x="{across}" y="{low + 14}" text-anchor="middle">{100 * step:.0f}</text>')
    return out


def _label(text: str, x: float, y: float, *, rotated: bool = False) -> str:
    turn = f' transform="rotate(-90 {x} {y})"' if rotated else ""
    return f'<text x="{x}" y="{y}" text-anchor="middle"{turn}>{escape(text)}</text>'
