"""`anytag finetune`: teach a model custom tags."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from anytag._io import check_folder
from anytag.cli import label_source
from anytag.cli.bar import Bar
from anytag.cli.options import FiniteFloat, OutputPath
from anytag.models.registry import EMBEDDED


@click.command("finetune", short_help="Teach a model custom tags.")
@label_source.options(
    "A .csv of image,tags (tags separated by ';', photos relative to the file), or rows.jsonl."
)
@click.option(
    "--output",
    metavar="FOLDER",
    type=OutputPath(path_type=Path),
    required=True,
    help="Where to write the model.",
)
@click.option("--model", metavar="NAME|FOLDER", help="The model to start from.  [default: the embedded one]")
@click.option(
    "--epochs", metavar="N", type=click.IntRange(min=1), help="Epochs.  [default: by the number of photos]"
)
@click.option("--keep-old", is_flag=True, help="Keep the model's existing tags beside the new ones.")
@click.option(
    "--positives-only", is_flag=True, help="Tags that a photo does not list are unknown, not absent."
)
@click.option(
    "--held-out", metavar="PART", type=FiniteFloat(0, 0.9), default=0.2, show_default=True,
    help="Share of the photos that is held out, unless rows name their split.",
)  # fmt: skip
@click.option(
    "--goal",
    metavar="GOAL",
    default="f1",
    show_default=True,
    help="Goal of the thresholds: f1, or precision=0.8.",
)
@click.option("--seed", metavar="N", type=int, default=0, show_default=True)
def command(data: Path | None, library: str | None, output: Path, goal: str, **options: Any) -> None:
    """Teach a model custom tags from about 20 photos each; takes minutes on a CPU.

    The result is a folder for anytag tag --model FOLDER. Its results on held-out photos are printed beside
    those of the original model with the tags' names alone, and written into its card.

    --from-library implies --positives-only.

    Exit code: 0 success, 1 some photos failed (each is reported, the others are used), 2 invalid usage.
    """
    check_folder(output, [*label_source.inputs(data, library), options["model"] or EMBEDDED])
    options["positives_only"] |= library is not None
    from anytag.calibration.fit import Goal
    from anytag.torch.training.finetune import Finetune, finetune

    with label_source.rows_of(data, library, options["model"]) as rows, Bar() as bar:
        figures = finetune(Finetune(rows, output, goal=Goal.parse(goal), **options), bar)
    click.echo(table(figures))
    click.echo(f"Try it: anytag tag --model {output} PHOTO")
    bar.finish()


def table(figures: Mapping[str, Any]) -> str:
    """Format the results as lines."""
    held = figures["held out"]
    lines = [f"{figures['tags']} tags learned from {figures['photos']} photos: {figures['known']}."]
    if not held["photos"]:
        return "\n".join([*lines, "No photos were held out, so nothing was evaluated."])
    lines.append(f"On {held['photos']} photos held out:")
    lines.append(f"  {'':<10} {'names only':>10} {'fine-tuned':>10}")
    for name, value in held["after"].items():
        if name != "tags":
            before = held["before"].get(name)
            lines.append(f"  {name:<10} {'' if before is None else f'{before:.3f}':>10} {value:>10.3f}")
    if old := held.get("old tags"):
        lines.append(
            f"The {old['tags']} old tags: largest change of a score {old['largest score change']:g}; "
            f"predicted before {old['given before']}, after {old['given after']}, "
            f"both {old['given in both']}."
        )
    return "\n".join(lines)
