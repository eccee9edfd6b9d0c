"""The HTML page of a report: tables, curves as SVG, and mistakes with embedded thumbnails."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from html import escape

from anytag.errors import AnytagError
from anytag.evaluation.evaluate import Report
from anytag.evaluation.measure import Measured, Mistakes, Picture
from anytag.evaluation.report.svg import chart
from anytag.images import load
from anytag.images.thumbnail import thumbnail as small

THUMBNAIL = 144  # longer side in pixels
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { padding: .15rem .6rem; border-bottom: 1px solid #ddd }
td:not(:first-child), th:not(:first-child) { text-align: right; font-variant-numeric: tabular-nums }
svg text { font: 11px system-ui, sans-serif }
svg .title { font-weight: bold }
figure { display: inline-block; margin: .3rem; vertical-align: top; max-width: 20rem }
figcaption { font-size: 12px }
details { margin: 1rem 0 }
h3 { margin: 1.2rem 0 .2rem }
""".replace("\n", " ")
Table = tuple[list[str], list[list[str]]]


def page(
    report: Report,
    summary: Table,
    *,
    tags: Table,
    reliability: Mapping[str, Table],
    facts: Sequence[str],
) -> str:
    """Render a self-contained page, without scripts and external resources."""
    parts = [
        f"<h1>{escape(report.name)}</h1>",
        *(f"<p>{escape(fact)}</p>" for fact in facts),
        _table(summary),
    ]
    if sources := sorted({one.source for one in report.published}):
        parts.append(f"<p>Published figures: {escape('; '.join(sources))}.</p>")
    for name, table in reliability.items():
        parts.append(f"<h2>Reliability of {escape(name)}</h2>{_table(table)}")
    parts += _charts(report.measured)
    if report.mistakes:
        parts += ["<h2>Worst mistakes</h2>", *map(_mistakes, report.mistakes)]
    if tags[1]:
        parts.append(f"<details><summary>All {len(tags[1])} tags</summary>{_table(tags)}</details>")
    title = escape(report.name)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _table(table: Table) -> str:
    head, rows = table
    body = "".join(_row(row, "td") for row in rows)
    return f"<table><thead>{_row(head, 'th')}</thead><tbody>{body}</tbody></table>"


def _row(cells: Iterable[str], kind: str) -> str:
    return "<tr>" + "".join(f"<{kind}>{escape(cell)}</{kind}>" for cell in cells) + "</tr>"


def _charts(measured: Sequence[Measured]) -> list[str]:
    """Curves of all models in one chart each; curves by threshold for the first model."""
    out = []
    for name, x, y in (
        ("precision-recall", "recall in %", "precision in %"),
        ("calibration", "score in %", "present in %"),
    ):
        lines = {one.name: one.curves[name] for one in measured if name in one.curves}
        if lines:
            out.append(chart(name.capitalize(), lines, x=x, y=y, diagonal=name == "calibration"))
    names = [name for name in ("precision", "recall", "F1") if name in measured[0].curves]
    if names:
        lines = {name: measured[0].curves[name] for name in names}
        out.append(chart(f"By threshold, {measured[0].name}", lines, x="threshold in %", y="%"))
    return ["<h2>Curves</h2>", *out] if out else []


def _mistakes(one: Mistakes) -> str:
    rows = [
        f"<p>{escape(text)}:</p>{''.join(map(_picture, pictures))}"
        for text, pictures in one.rows.items()
        if pictures
    ]
    return f"<h3>{escape(one.title)}</h3>{''.join(rows)}"


def _picture(picture: Picture) -> str:
    source = thumbnail(picture.photo)
    image = f'<img src="{source}" alt="{escape(picture.photo)}">' if source else escape(picture.photo)
    return f"<figure>{image}<figcaption>{escape(picture.text)}</figcaption></figure>"


@lru_cache(maxsize=256)
def thumbnail(photo: str) -> str:
    """A small JPEG of a photo as a data URL; empty if it can no longer be read."""
    try:
        jpeg = small(load(photo, min_side=THUMBNAIL), THUMBNAIL)
    except AnytagError:
        return ""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
