"""`anytag train`: train a model by a recipe."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from anytag._io import check_folder
from anytag.cli.bar import Bar, duration
from anytag.cli.options import FiniteFloat, LazyHelpCommand, OutputPath
from anytag.progress import counted

_STATES = frozenset(("state.pt", "state.previous.pt"))
_LOCK = ".lock"
_RESULTS = frozenset(("student.pt", "model"))
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


class Data(click.Path):
    """An existing file, or a URL."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if "://" in str(value) else super().convert(value, param, ctx)


_DATA = Data(exists=True, dir_okay=False, path_type=Path)


def on_machine(function: Any) -> Any:
    """Add the options that do not change the recipe: hardware, checkpoints and logging."""
    options = (
        click.option(
            "--accumulate", metavar="N", type=click.IntRange(min=1), default=1, show_default=True,
            help="Gradient accumulation: number of micro-batches per step.",
        ),
        click.option(
            "--checkpointing", is_flag=True, help="Gradient checkpointing: less memory, more time."
        ),
        click.option("--compile", is_flag=True, help="Use torch.compile, for GPUs."),
        click.option(
            "--workers", metavar="N", type=click.IntRange(min=0), default=2, show_default=True,
            help="Data loader processes.",
        ),
        click.option(
            "--save-minutes", metavar="X", type=FiniteFloat(min=0), default=4.0, show_default=True,
            help="Minutes between checkpoints.",
        ),
        click.option(
            "--log-every", metavar="N", type=click.IntRange(min=1), default=20, show_default=True,
            help="Steps between log lines.",
        ),
        click.option(
            "--tensorboard/--no-tensorboard", default=True, show_default=True, help="Log to TensorBoard."
        ),
        click.option("--wandb", metavar="PROJECT", default="", help="Also log to Weights & Biases."),
    )  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


def _recipes() -> Iterable[str]:
    from anytag.torch.training.recipes import RECIPES

    return tuple(RECIPES)


@click.command("train", short_help="Train a model from photos.", cls=LazyHelpCommand, names=_recipes)
@click.argument("recipe", metavar="RECIPE")
@click.argument("numbers", metavar="[key=value]...", nargs=-1)
@click.option("--data", metavar="FILE", type=_DATA, help="rows.jsonl, a .csv of image,tags, or a URL.")
@click.option("--output", metavar="FOLDER", type=OutputPath(path_type=Path), help="Folder of the run.")
@click.option(
    "--tag-list", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="For published annotations: the tags that their ids index, one per line; by default the vocabulary.",
)  # fmt: skip
@click.option(
    "--cache",
    metavar="FOLDER",
    type=OutputPath(path_type=Path),
    help="For mini: cached features, computed if they are missing.",
)
@click.option("--vocabulary", metavar="FOLDER", type=_FOLDER, help="For mini: tags and descriptions.")
@click.option("--dry-run", is_flag=True, help="Only estimate parameters, memory, steps and time.")
@on_machine
def command(
    recipe: str,
    numbers: tuple[str, ...],
    data: Any,
    output: Path | None,
    tag_list: Path | None,
    cache: Path | None,
    vocabulary: Path | None,
    dry_run: bool,
    **run_options: Any,
) -> None:
    """Train a model by a recipe: {names}.

    Any value of the recipe can be changed by key=value; the resolved recipe is printed, without values that
    have no effect. The same command resumes an interrupted run. On several devices or machines: accelerate
    launch -m anytag train ...
    """
    if output is not None and not dry_run:
        inputs = [one for one in (data, cache, vocabulary) if isinstance(one, Path)]
        check_folder(output, inputs, is_earlier=is_run)
    from anytag.torch.training.effects import effective_fields, resolve
    from anytag.torch.training.fit import train
    from anytag.torch.training.run import Run, RunOptions

    made = resolve(recipe, [*numbers, *([f"vocabulary={vocabulary}"] if vocabulary else [])])
    if cache and made.features is None:
        raise click.UsageError("--cache is for mini; this recipe reads photos.")
    if tag_list and made.features is not None:
        raise click.UsageError("--tag-list is for published annotations, which this recipe does not read.")
    if not dry_run:
        data, output = needed(data, "--data"), needed(output, "--output")
    show(effective_fields(made))
    if dry_run:
        click.echo(_estimate(made, data, tag_list))
        return
    run = Run(made, data, needed(output, "--output"), RunOptions(**run_options), tag_list, cache)
    with Bar() as bar:
        result = train(run, bar)
    print_result(result)


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run to resume: with its state, or without a result."""
    names = {file.name for file in folder.iterdir()}
    return _LOCK in names and (bool(names & _STATES) or not names & _RESULTS)


def show(numbers: Mapping[str, Any]) -> None:
    """Print the resolved recipe."""
    click.echo(json.dumps(numbers, indent=1, ensure_ascii=False))


def print_result(result: Path) -> None:
    """Print where the result of a run is."""
    click.echo(f"Try it: anytag tag --model {result} PHOTO" if result.is_dir() else f"Written: {result}")


def needed(path: Path | None, option: str) -> Path:
    """The path, or a usage error if it is missing."""
    if path is None:
        raise click.UsageError(f"{option} is missing.")
    return path


def _estimate(recipe: Any, data: Any, tag_list: Path | None) -> str:
    """Format what a run would take."""
    from anytag.torch.training.dry_run import plan

    planned = plan(recipe, data, tag_list=tag_list)
    cost, photos = planned.cost, recipe.batch_size
    lines = [
        f"{cost.parameters / 1e6:.1f} million trainable parameters, {cost.fixed / 1e6:.1f} million frozen",
        f"{planned.tags} tags of {counted(planned.texts, 'text')}, {planned.photos} photos{planned.assumed}",
        f"{counted(cost.steps, 'step')} of {counted(photos, 'photo')}",
        f"annotations: read and parsed once, about {duration(planned.parse_seconds)} and "
        f"{planned.stored_bytes / 1e9:.1f} GB of disk; later starts take seconds, and little memory",
        f"memory per process: {cost.memory(0) / 1e9:.1f} GB and {cost.photo_bytes / 1e6:.0f} MB per photo; "
        f"with all {photos} photos at once {cost.memory(photos) / 1e9:.1f} GB",
        f"{cost.photo_flops / 1e9:.1f} GFLOP per photo; at half of the {cost.speed / 1e9:.0f} GFLOP/s of a "
        f"matrix product on this device, alone: {duration(cost.seconds(photos))}",
    ]
    return "\n".join(lines)
