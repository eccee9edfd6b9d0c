"""`anytag calibrate`: fit a model's probabilities and thresholds to labelled photos."""

from __future__ import annotations

from pathlib import Path

import click

from anytag._io import check_folder
from anytag.cli import label_source
from anytag.cli.bar import Bar
from anytag.cli.options import OutputPath
from anytag.models.registry import resolve


@click.command("calibrate", short_help="Fit probabilities and thresholds to your photos.")
@click.argument("model", metavar="MODEL")
@label_source.options(
    "A .csv of image,tags (tags separated by ';') or rows.jsonl; tags that a photo does not list are absent."
)
@click.option(
    "--output",
    metavar="FOLDER",
    type=OutputPath(path_type=Path),
    required=True,
    help="Where to write the model.",
)
@click.option(
    "--goal",
    metavar="GOAL",
    default="f1",
    show_default=True,
    help="Goal of the thresholds: f1, or a precision as precision=0.8.",
)
def command(model: str, data: Path | None, library: str | None, output: Path, goal: str) -> None:
    """Fit a model's probabilities and thresholds to labelled photos.

    MODEL is a name or a folder, of any family; it is not changed. Tags with fewer than three positive or
    three negative photos keep their calibration. The settings and the results by cross-validation are
    printed and written into the card.

    Exit code: 0 success, 1 some photos failed (each is reported, the others are used), 2 invalid usage.
    """
    check_folder(output, [*label_source.inputs(data, library), resolve(model)])
    from anytag.calibration.fit import Goal
    from anytag.calibration.model import calibrate

    with label_source.rows_of(data, library, model) as rows, Bar() as bar:
        figures = calibrate(model, rows, output, goal=Goal.parse(goal), report=bar)
    before, after = figures["before"], figures["after, by halves"]
    click.echo(f"{figures['tags']} tags fitted on {figures['photos']} photos for {figures['goal']}.")
    click.echo(f"  {'':<31} {'before':>8} {'after':>8}   (each half evaluated with the fit of the other)")
    for name in dict.fromkeys([*before, *after]):
        shown = (f"{figure[name]:.3f}" if name in figure else "-" for figure in (before, after))
        click.echo(f"  {name:<31} " + " ".join(f"{text:>8}" for text in shown))
    click.echo(f"Written to {output}")
    bar.finish()
