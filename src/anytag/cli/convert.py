"""`anytag convert`: convert a published checkpoint into a model folder, or back."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from anytag._io import check_folder, check_output
from anytag.cli.options import FiniteFloat, LazyChoice, OutputPath

if TYPE_CHECKING:
    from anytag.torch.checkpoints.convert import Conversion
    from anytag.torch.export.text_tower import TextTower


def _families() -> tuple[str, ...]:
    from anytag.models.published import PUBLISHED

    return ("auto", *PUBLISHED)


@click.command("convert", short_help="Convert a published checkpoint into a model folder, or back.")
@click.argument("source", metavar="FILE", type=click.Path(exists=True, path_type=Path))
@click.option(
    "-o", "--output", metavar="PATH", type=OutputPath(path_type=Path),
    help="The folder to write; when FILE is a model folder, the .pth or .safetensors to write.",
)  # fmt: skip
@click.option(
    "--text", metavar="CLIP", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Add the text tower of this transformers or open_clip folder, for custom tags.",
)  # fmt: skip
@click.option(
    "--family", type=LazyChoice(_families), default="auto", show_default=True,
    help="The model family of FILE.",
)  # fmt: skip
@click.option(
    "--lists", metavar="FOLDER", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The published tag lists and thresholds; by default those that `anytag pull` has downloaded.",
)  # fmt: skip
@click.option(
    "--embedding", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Text embeddings of the tags, for a checkpoint that was saved without them.",
)  # fmt: skip
@click.option(
    "--image-size",
    metavar="PIXELS",
    type=int,
    help="Another image size than the checkpoint's; position tables are resampled.",
)
@click.option(
    "--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True,
    help="Data type of the written weights.",
)  # fmt: skip
@click.option("--captions/--no-captions", default=True, help="Keep the caption modules.  [default: captions]")
@click.option(
    "--descriptions", metavar="N", type=click.IntRange(min=1),
    help="Text embeddings per tag of RAM++; by default derived from the number of tags.",
)  # fmt: skip
@click.option(
    "--threshold", type=FiniteFloat(0, 1), help="One threshold for all tags instead of the published."
)
def command(source: Path, output: Path | None, text: Path | None, **options: Any) -> None:
    """Convert a published checkpoint of Tag2Text, RAM or RAM++ into a model folder.

    FILE is a .pth or a .safetensors; tensors may be under "model", "state_dict" or "model_state_dict". Every
    tensor of FILE must be used or known; no code in it is executed. If FILE is a converted model folder, the
    published checkpoint is written to -o, or the text tower of --text is added to the folder.
    """
    if source.is_dir():
        _refuse_options(options)
    if output is not None:
        inputs = [one for one in (source, text, options["lists"], options["embedding"]) if one is not None]
        (check_output if source.is_dir() else check_folder)(output, inputs)
    from anytag.models.card import Card
    from anytag.torch.checkpoints.convert import Options, convert, convert_back

    tower = None
    if text is not None:  # before gigabytes are written
        from anytag.torch.export.text_tower import read_tower

        tower = read_tower(text)
    if source.is_dir() and tower is not None and output is None:
        give_text(source, tower)
    elif output is None or (source.is_dir() and tower is not None):
        raise click.UsageError("give -o FOLDER to convert; for a model folder -o FILE.pth or --text CLIP")
    elif source.is_dir():
        count = convert_back(source, output)
        left_out = ", without the alignment heads" if Card.read(source).network.get("alignment") else ""
        click.echo(f"{output}: {count} tensors under their published names{left_out}")
    else:
        click.echo(
            describe_conversion(convert(source, output, Options(precision=options.pop("dtype"), **options)))
        )
        if tower is not None:
            give_text(output, tower)


def _refuse_options(names: Iterable[str]) -> None:
    """Raise UsageError if an option of a conversion from a checkpoint is given with a model folder."""
    context = click.get_current_context()
    options = {one.name: one.opts[0] for one in context.command.params}
    for name in names:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{options[name]} is for a checkpoint, but FILE is a model folder.")


def give_text(folder: Path, tower: TextTower) -> None:
    """Add CLIP's text tower to a model folder and report it."""
    from anytag.torch.export.text_tower import add_text

    added = add_text(folder, tower)
    click.echo(
        f"{folder} now supports custom tags: {tower.origin}, {added.width} dimensions, {added.prompts}; "
        f"cosine with trained queries {added.agreement:.3f} (near 1: the tower it was trained with)"
    )


def describe_conversion(done: Conversion) -> str:
    """Format the result of a conversion as lines."""
    from anytag.models.registry import describe

    size = f"{done.config.size} pixels"
    if done.source_size != done.config.size:
        size += f" (positions resampled from {done.source_size})"
    tensors = f"{done.loaded} loaded, {done.tied} tied to these, {done.derived} recomputed"
    lines = {
        "family": done.family,
        "image": size,
        "tags": f"{done.tags}, {done.descriptions} embeddings each" if done.descriptions > 1 else done.tags,
        "thresholds": done.origin,
        "tensors": tensors + (f", {done.dropped} of caption modules dropped" if done.dropped else ""),
        "captions": "no" if done.config.captions is None else "yes",
        "size": f"{describe(done.folder).bytes / 1e6:,.1f} MB",
    }
    if done.warning:
        lines["doubt"] = done.warning
    if done.ignored:
        lines["not read"] = ", ".join(done.ignored)
    return "\n".join([str(done.folder), *(f"  {name:<11}{value}" for name, value in lines.items())])
