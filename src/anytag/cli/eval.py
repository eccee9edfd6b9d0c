"""`anytag eval`: evaluate a model and compare it with others."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from anytag._io import check_folder, check_output
from anytag.cli.bar import Bar
from anytag.cli.options import LazyHelpCommand, OutputPath

_FOLDER = click.Path(file_okay=False, path_type=Path)


def _benchmarks() -> Iterable[str]:
    from anytag.evaluation.benchmarks import BENCHMARKS

    return BENCHMARKS


@click.command(
    "eval", short_help="Evaluate a model, and compare it with others.", cls=LazyHelpCommand, names=_benchmarks
)
@click.argument("model", metavar="[MODEL]", required=False)
@click.option(
    "--data", metavar="FILE|NAME", required=True,
    help="rows.jsonl or any format that anytag data reads, or a benchmark: {names}.",
)  # fmt: skip
@click.option(
    "--task", type=click.Choice(["tagging", "open-set", "caption", "retrieval"]),
    help="tagging scores the model's vocabulary, open-set the names of the data's labels.  "
    "[default: the benchmark's own, else tagging]",
)  # fmt: skip
@click.option("--against", metavar="MODEL", multiple=True, help="Another anytag model to compare with.")
@click.option(
    "--baseline", metavar="KIND:NAME", multiple=True,
    help="A baseline model: open_clip:NAME@WEIGHTS, open_clip:local-dir:FOLDER, transformers:NAME, "
    "imagenet:tf_efficientnet_lite0.",
)  # fmt: skip
@click.option(
    "--prompts", type=click.Choice(["one", "ensemble"]), default="one", show_default=True,
    help="Prompts of open_clip and transformers: one per name, or the mean of RAM's 63.",
)  # fmt: skip
@click.option("--images", metavar="FOLDER", type=_FOLDER, help="Folder of a benchmark's photos.")
@click.option("--lists", metavar="FOLDER", type=_FOLDER, help="Folder of a benchmark's annotations.")
@click.option(
    "--allow-missing", is_flag=True,
    help="Continue if more than 1 % of a benchmark's photos are missing; published results are left out.",
)  # fmt: skip
@click.option("--split", metavar="NAME", default="test", show_default=True, help="Split of FILE to use.")
@click.option("--source", metavar="NAME", help="Only rows of this source.")
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="Only the first N photos.")
@click.option(
    "--at-least", metavar="N", type=click.IntRange(min=1), default=5, show_default=True,
    help="Minimum number of photos of a tag in means over tags.",
)  # fmt: skip
@click.option(
    "--resamples", metavar="N", type=click.IntRange(min=0), default=200, show_default=True,
    help="Resamples of the bootstrap intervals; 0 for no intervals.",
)  # fmt: skip
@click.option(
    "--output",
    metavar="FOLDER",
    type=OutputPath(file_okay=False, path_type=Path),
    help="Folder for report.json, report.md and report.html.",
)
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True,
    help="Device of anytag models.",
)  # fmt: skip
@click.option("--cost/--no-cost", "costs", default=True, help="Also measure time and memory of tagging.")
def command(
    model: str | None,
    against: tuple[str, ...],
    baseline: tuple[str, ...],
    output: Path | None,
    **options: Any,
) -> None:
    """Evaluate MODEL (by default the embedded one): average precision, precision, recall and reliability.

    Also evaluates captions (BLEU, CIDEr, METEOR) and retrieval (recall at 1, 5, 10), with 95 % bootstrap
    intervals. The summary is printed as Markdown; --output adds results per tag, curves and the worst errors
    with their photos.

    Exit code: 0 success, 1 some photos failed (the report names them, the others are evaluated), 2 invalid
    usage.
    """
    if output is not None:
        _check_report(output, options["data"])
    from anytag.evaluation import run as evaluation_run
    from anytag.evaluation.report import report

    evaluation = evaluation_run.Evaluation(
        models=(model, *against),
        baselines=baseline,
        kind=options.pop("task"),
        times=options.pop("resamples"),
        **options,
    )
    with Bar(transient=True) as bar:
        evaluation_report = evaluation_run.run(evaluation, report=bar)
    click.echo(report.overview(evaluation_report))
    if output is not None:
        for path in report.write(evaluation_report, output):
            click.echo(f"Wrote {path}", err=True)
    if evaluation_report.failed:
        sys.exit(1)


def _check_report(output: Path, data: str) -> None:
    """Refuse to replace files that are not an earlier report.

    Raises:
        RefusedOutputError: a file of the report is the data, or not an earlier report.
    """
    if not output.exists():
        check_folder(output)
        return
    for name in ("report.json", "report.md", "report.html"):
        check_output(output / name, [data], is_earlier=_is_report)


def _is_report(file: Path) -> bool:
    """Whether the folder's report.json was written by this command."""
    report = json.loads(file.with_name("report.json").read_text(encoding="utf-8"))
    return isinstance(report, dict) and {"kind", "photos", "measured"} <= report.keys()
