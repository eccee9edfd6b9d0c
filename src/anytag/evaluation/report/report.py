"""Write a report as JSON, Markdown and a self-contained HTML page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from anytag._io import atomic_write, writing
from anytag.evaluation.evaluate import Report
from anytag.evaluation.measure import Figure, ScoreBin, TagLine
from anytag.evaluation.report.html import page
from anytag.progress import counted

FILES = ("report.json", "report.md", "report.html")


def write(report: Report, folder: Path) -> list[Path]:
    """Write `FILES` to a folder, which is created if missing; each file atomically.

    Raises:
        OutputError: a file cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    data = json.dumps(report.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
    web = page(
        report,
        summary(report),
        tags=tag_table(report),
        reliability=reliability_tables(report),
        facts=facts(report),
    )
    texts = dict(zip(FILES, (data, markdown(report), web), strict=True))
    for name, text in texts.items():
        with atomic_write(folder / name) as draft:
            draft.write_bytes(text.encode(errors="backslashreplace"))  # names of photos may be no Unicode
    return [folder / name for name in FILES]


Table = tuple[list[str], list[list[str]]]


def facts(report: Report) -> list[str]:
    """Describe the evaluation in sentences."""
    out = [f"{report.name}: {report.kind}, {report.photos} photos."]
    if report.tags:
        out.append(
            f"{report.tags} tags were evaluated. mAP and macro means are of the {report.counted} with enough "
            "photos; all other figures include every tag."
        )
    out.append(
        "All values are percent unless they say otherwise; the 95 % bootstrap interval is in brackets."
    )
    if report.failed:
        why = next(iter(report.failed.values()))
        out.append(f"{counted(len(report.failed), 'photo')} could not be read, for instance: {why}")
    first = report.measured[0].name
    out += [
        f"mAP of {name} minus that of {first}, on the same resamples: {number(figure, sign=True)}."
        for name, figure in report.differences.items()
    ]
    return out + list(report.notes) + training(report)


def training(report: Report) -> list[str]:
    """Training data of each model in sentences; models trained on similar labels have an advantage."""
    trained_on = {one.name: one.trained_on for one in report.measured}
    trained_on |= {f"{one.who} (published)": one.trained_on for one in report.published}
    plain = {name: " ".join(text.split()).rstrip(".") for name, text in trained_on.items()}
    return [f"{name} was trained on: {text}." for name, text in plain.items() if text]


def summary(report: Report) -> Table:
    """Table with figures in rows and models in columns, followed by published figures."""
    others = list(dict.fromkeys(one.who for one in report.published))
    names = list(dict.fromkeys(key for one in report.measured for key in one.figures))
    names += [key for key in dict.fromkeys(one.figure for one in report.published) if key not in names]
    head = ["", *(one.name for one in report.measured), *(f"{who} (published)" for who in others)]
    rows = []
    for name in names:
        ours = [number(one.figures.get(name)) for one in report.measured]
        published = [
            [p.value for p in report.published if (p.who, p.figure) == (who, name)] for who in others
        ]
        rows.append([name, *ours, *(f"{values[0]:.1f}" if values else "" for values in published)])
    for name, attribute in (("milliseconds a photo", "milliseconds"), ("peak memory in MB", "megabytes")):
        if report.costs:
            costs = [report.costs.get(one.name) for one in report.measured]
            values = [f"{getattr(cost, attribute):.1f}" if cost else "" for cost in costs]
            rows.append([name, *values, *("" for _ in others)])
    return head, rows


def reliability_tables(report: Report) -> dict[str, Table]:
    """Per model with thresholds: predicted tags by score, their number, and the share that is correct."""
    head = ["score of given tags", "pairs", "mean score", "are right", "95 % interval (Wilson)"]
    return {
        one.name: (head, [_bin_row(some) for some in one.reliability])
        for one in report.measured
        if one.reliability
    }


def _bin_row(one: ScoreBin) -> list[str]:
    shares = f"{one.right_low:.1f} to {one.right_high:.1f}"
    return [f"{one.low:g} to {one.high:g}", str(one.pairs), f"{one.score:.1f}", f"{one.right:.1f}", shares]


def tag_table(report: Report) -> Table:
    """All tags that are present or predicted, best first; AP of each model, other columns of the first."""
    _, *others = report.measured
    head = ["tag", "photos", "AP", *(f"AP {one.name}" for one in others)]
    head += ["given", "mean score", "precision", "recall", "F1", "threshold", "asked by"]
    lines = [
        line
        for line in zip(*(one.tags for one in report.measured), strict=True)
        if line[0].photos or line[0].predicted
    ]
    lines.sort(key=lambda line: -line[0].AP)
    return head, [_tag_row(ours, [one.AP for one in of_others]) for ours, *of_others in lines]


def _tag_row(line: TagLine, others: Sequence[float]) -> list[str]:
    query_kind = {None: "", True: "trained query", False: "its words"}[line.trained]
    ap = [_share(share) for share in (line.AP, *others)]
    predicted = "" if line.predicted is None else str(line.predicted)
    shares = [_share(share) for share in (line.score, line.precision, line.recall, line.F1)]
    threshold = "" if line.threshold is None else f"{line.threshold:.2f}"
    return [line.name, str(line.photos), *ap, predicted, *shares, threshold, query_kind]


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.1f}"


def number(figure: Figure | None, *, sign: bool = False) -> str:
    """Format as `71.2 (70.1 to 72.4)`; empty for None."""
    if figure is None:
        return ""
    form = "+.1f" if sign else ".1f"
    if figure.low is None or figure.high is None:
        return f"{figure.value:{form}}"
    return f"{figure.value:{form}} ({figure.low:{form}} to {figure.high:{form}})"


def overview(report: Report) -> str:
    """Facts, summary and reliability of predicted tags, as Markdown."""
    parts = ["\n".join(facts(report)), as_markdown(summary(report))]
    for name, table in reliability_tables(report).items():
        parts += [f"## Reliability of {name}", as_markdown(table)]
    return "\n\n".join(parts)


def markdown(report: Report) -> str:
    """The overview, sources of published figures, and all tags."""
    parts = [f"# {report.name}", overview(report)]
    if sources := sorted({one.source for one in report.published}):
        parts.append("Published figures: " + "; ".join(sources) + ".")
    head, rows = tag_table(report)
    if rows:
        parts += ["## Tags", as_markdown((head, rows))]
    if report.failed:
        parts += ["## Left out", "\n".join(f"- {why}" for why in report.failed.values())]
    return "\n\n".join(parts) + "\n"


def as_markdown(table: Table) -> str:
    """Render a Markdown table; all columns but the first are right-aligned."""
    head, rows = table
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(_cells(line))} |" for line in lines)


def _cells(line: Iterable[str]) -> list[str]:
    return [cell.replace("|", "\\|") for cell in line]
