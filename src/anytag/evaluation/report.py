"""A report as JSON, Markdown and one HTML page that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from .evaluate import Report
from .measure import Figure, TagLine
from .page import page

FILES = ("report.json", "report.md", "report.html")


def write(report: Report, folder: Path) -> list[Path]:
    """Writes `FILES` into a folder, which is made if it is missing; each appears whole or not at all.

    Raises:
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = json.dumps(report.to_dict(), indent=1, ensure_ascii=False)
    web = page(report, summary(report), tags=tag_table(report), facts=facts(report))
    texts = dict(zip(FILES, (data, markdown(report), web), strict=True))
    for name, text in texts.items():
        draft = folder / f".{name}.part"
        draft.write_text(text, encoding="utf-8")
        draft.replace(folder / name)
    return [folder / name for name in FILES]


Table = tuple[list[str], list[list[str]]]


def facts(report: Report) -> list[str]:
    """What was measured, in sentences."""
    out = [f"{report.name}: {report.kind}, {report.photos} photos."]
    if report.tags:
        out.append(
            f"{report.tags} tags were asked; means over tags are of the {report.counted} with photos enough."
        )
    out.append("All values are percent unless they say otherwise; in brackets the 95 % bootstrap interval.")
    if report.failed:
        why = next(iter(report.failed.values()))
        out.append(f"{len(report.failed)} photos could not be read and are left out, for instance: {why}")
    first = report.measured[0].name
    out += [
        f"mAP of {name} less that of {first}, on the same resamples: {number(figure, sign=True)}."
        for name, figure in report.differences.items()
    ]
    return out


def summary(report: Report) -> Table:
    """Figures down, contestants across, published figures of others after them."""
    others = list(dict.fromkeys(one.who for one in report.published))
    names = list(dict.fromkeys(key for one in report.measured for key in one.figures))
    names += [key for key in dict.fromkeys(one.figure for one in report.published) if key not in names]
    head = ["", *(one.name for one in report.measured), *(f"{who} (published)" for who in others)]
    rows = []
    for name in names:
        ours = [number(one.figures.get(name)) for one in report.measured]
        theirs = [[p.value for p in report.published if (p.who, p.figure) == (who, name)] for who in others]
        rows.append([name, *ours, *(f"{values[0]:.1f}" if values else "" for values in theirs)])
    for name, attribute in (("milliseconds a photo", "milliseconds"), ("peak memory in MB", "megabytes")):
        if report.costs:
            costs = [report.costs.get(one.name) for one in report.measured]
            values = [f"{getattr(cost, attribute):.1f}" if cost else "" for cost in costs]
            rows.append([name, *values, *("" for _ in others)])
    return head, rows


def tag_table(report: Report) -> Table:
    """Every tag that a photo shows, best first; AP of each contestant, the rest of the first."""
    _, *others = report.measured
    head = ["tag", "photos", "AP", *(f"AP {one.name}" for one in others)]
    head += ["precision", "recall", "F1", "threshold", "asked by"]
    lines = [line for line in zip(*(one.tags for one in report.measured), strict=True) if line[0].photos]
    lines.sort(key=lambda line: -line[0].AP)
    return head, [_tag_row(ours, [one.AP for one in theirs]) for ours, *theirs in lines]


def _tag_row(line: TagLine, others: Sequence[float]) -> list[str]:
    asked = {None: "", True: "trained query", False: "its words"}[line.trained]
    shares = [line.AP, *others, line.precision, line.recall, line.F1]
    shown = ["" if share is None else f"{share:.1f}" for share in shares]
    threshold = "" if line.threshold is None else f"{line.threshold:.2f}"
    return [line.name, str(line.photos), *shown, threshold, asked]


def number(figure: Figure | None, *, sign: bool = False) -> str:
    """`71.2 (70.1–72.4)`, or nothing."""
    if figure is None:
        return ""
    form = "+.1f" if sign else ".1f"
    if figure.low is None or figure.high is None:
        return f"{figure.value:{form}}"
    return f"{figure.value:{form}} ({figure.low:{form}} to {figure.high:{form}})"


def markdown(report: Report) -> str:
    """Facts, the summary, sources of published figures, and every tag."""
    parts = [f"# {report.name}", "\n".join(facts(report)), as_markdown(summary(report))]
    if sources := sorted({one.source for one in report.published}):
        parts.append("Published figures: " + "; ".join(sources) + ".")
    head, rows = tag_table(report)
    if rows:
        parts += ["## Tags", as_markdown((head, rows))]
    if report.failed:
        parts += ["## Left out", "\n".join(f"- {why}" for why in report.failed.values())]
    return "\n\n".join(parts) + "\n"


def as_markdown(table: Table) -> str:
    """A Markdown table; all columns but the first are aligned right."""
    head, rows = table
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(_cells(line))} |" for line in lines)


def _cells(line: Iterable[str]) -> list[str]:
    return [cell.replace("|", "\\|") for cell in line]
