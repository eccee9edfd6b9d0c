"""`anytag calibrate`: rows of photos in, a model with better probabilities and thresholds out."""

from __future__ import annotations

from pathlib import Path

import click

from anytag._io import check_folder
from anytag.cli import teaching
from anytag.cli.bar import Bar
from anytag.cli.options import Place
from anytag.models.registry import resolve


@click.command("calibrate", short_help="Fit probabilities and thresholds to your photos.")
@click.argument("model", metavar="MODEL")
@teaching.data("A .csv of image,tags (tags separated by ';') or rows.jsonl; unnamed tags count as absent.")
@click.option(
    "--output", metavar="FOLDER", type=Place(path_type=Path), required=True, help="The model folder to write."
)
@click.option(
    "--goal",
    metavar="GOAL",
    default="f1",
    show_default=True,
    help="Goal of the thresholds: f1, or precision=0.8.",
)
def command(model: str, data: Path | None, library: str | None, output: Path, goal: str) -> None:
    """Fit a model's probabilities and thresholds to photos whose tags are known.

    MODEL is a name or a folder, of any family; it is not changed. Tags that are present or absent in fewer
    than three rows are not fitted. The method, and the result on photos that were not used for fitting, are
    printed and written into the card.
    """
    check_folder(output, [*teaching.inputs(data, library), resolve(model)])
    from anytag.calibration.fit import Goal
    from anytag.calibration.model import calibrate

    with teaching.rows_of(data, library, model) as rows, Bar() as bar:
        figures = calibrate(model, rows, output, goal=Goal.parse(goal), report=bar)
    before, after = figures["before"], figures["after, by halves"]
    click.echo(f"{figures['tags']} tags fitted on {figures['photos']} photos for {figures['goal']}.")
    click.echo(f"  {'':<31} {'before':>8} {'after':>8}   (each half judged by what the other taught)")
    for name in dict.fromkeys([*before, *after]):
        shown = (f"{figure[name]:.3f}" if name in figure else "-" for figure in (before, after))
        click.echo(f"  {name:<31} " + " ".join(f"{text:>8}" for text in shown))
    click.echo(f"Written to {output}")
