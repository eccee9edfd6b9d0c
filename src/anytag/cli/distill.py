"""`anytag distill`: distil a large model into a small one, on photos without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from anytag._io import check_folder
from anytag.cli.bar import Bar
from anytag.cli.options import OutputPath
from anytag.cli.train import is_run, on_machine, print_result, show

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command("distill", short_help="Distil a large model into a small one.")
@click.argument("teacher", metavar="TEACHER")
@click.argument("student", metavar="STUDENT_RECIPE")
@click.argument("numbers", metavar="[key=value]...", nargs=-1)
@click.option(
    "--photos",
    metavar="FOLDER",
    type=_FOLDER,
    required=True,
    help="Photos without labels, in any subfolders.",
)
@click.option(
    "--output", metavar="FOLDER", type=OutputPath(path_type=Path), required=True, help="The run's folder."
)
@on_machine
def command(
    teacher: str, student: str, numbers: tuple[str, ...], photos: Path, output: Path, **run_options: Any
) -> None:
    """Distil TEACHER, a model's name or folder, into STUDENT_RECIPE on photos without labels.

    The student has the teacher's vocabulary and learns its probabilities. Five percent of the photos are held
    out to measure their agreement. The same command resumes an interrupted run.
    """
    from anytag.tagger import Tagger
    from anytag.torch.training import distill
    from anytag.torch.training.effects import effective_fields
    from anytag.torch.training.run import Run, RunOptions

    check_folder(output, [photos, teacher], is_earlier=is_run)
    recipe = distill.student_recipe(student, numbers)
    show(effective_fields(recipe))
    with Bar() as bar:
        task = Run(recipe, photos, output, RunOptions(**run_options))
        result = distill.distill(Tagger.load(teacher), task, bar)
    if summary := distill.summary(output):
        click.echo(f"The student {summary}.")
    print_result(result)
    bar.finish()
