"""`anytag convert`: a published checkpoint in, a model folder out, or the other way round."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anytag._io import check_folder, check_output
from anytag.cli.options import Number, OneOf, Place

if TYPE_CHECKING:
    from anytag.torch.checkpoints.convert import Conversion
    from anytag.torch.export.text_tower import TextTower


def _families() -> tuple[str, ...]:
    from anytag.models.published import PUBLISHED

    return ("auto", *PUBLISHED)


@click.command("convert", short_help="Convert a published checkpoint to a model folder, or back.")
@click.argument("source", metavar="FILE", type=click.Path(exists=True, path_type=Path))
@click.option(
    "-o", "--output", metavar="PATH", type=Place(path_type=Path),
    help="The folder to write; from a model folder, the .pth.",
)  # fmt: skip
@click.option(
    "--text", metavar="CLIP", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Add the text tower in this folder, written by transformers or open_clip, to support custom "
    "tags.",
)  # fmt: skip
@click.option(
    "--family", type=OneOf(_families), default="auto", show_default=True,
    help="The family of the checkpoint.",
)  # fmt: skip
@click.option(
    "--lists", metavar="FOLDER", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with the published tag lists and thresholds; by default those downloaded by `anytag "
    "pull`.",
)  # fmt: skip
@click.option(
    "--embedding", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The tags' text vectors, for a checkpoint saved without them.",
)  # fmt: skip
@click.option(
    "--image-size",
    metavar="PIXELS",
    type=int,
    help="Image size other than the checkpoint's; position tables are resampled.",
)
@click.option(
    "--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True,
    help="Data type of the written weights.",
)  # fmt: skip
@click.option("--captions/--no-captions", default=True, help="Keep the caption modules.  [default: captions]")
@click.option(
    "--descriptions", metavar="N", type=click.IntRange(min=1),
    help="Number of text vectors per tag of RAM++; by default derived from the tag list.",
)  # fmt: skip
@click.option(
    "--threshold", type=Number(0, 1), help="One threshold for all tags, instead of the published ones."
)
def command(source: Path, output: Path | None, text: Path | None, **options: Any) -> None:
    """Convert a published checkpoint of Tag2Text, RAM or RAM++ to a model folder.

    FILE is a .pth or a .safetensors; tensors may be under "model", "state_dict" or "model_state_dict". Every
    tensor of FILE is accounted for; nothing in it is executed. If FILE is a folder that this command made,
    the published form is written to -o, or --text adds the text tower to the folder.
    """
    if output is not None:
        inputs = [one for one in (source, text, options["lists"], options["embedding"]) if one is not None]
        (check_output if source.is_dir() else check_folder)(output, inputs)
    from anytag.torch.checkpoints.convert import Options, convert, convert_back

    tower = None
    if text is not None:  # before gigabytes are written
        from anytag.torch.export.text_tower import read_tower

        tower = read_tower(text)
    if source.is_dir() and tower is not None and output is None:
        give_text(source, tower)
    elif output is None or (source.is_dir() and tower is not None):
        raise click.UsageError("give -o FOLDER to convert; of a model folder -o FILE.pth or --text CLIP")
    elif source.is_dir():
        count = convert_back(source, output)
        click.echo(f"{output}: {count} tensors under their published names")
    else:
        click.echo(
            describe_conversion(convert(source, output, Options(precision=options.pop("dtype"), **options)))
        )
        if tower is not None:
            give_text(output, tower)


def give_text(folder: Path, tower: TextTower) -> None:
    """Adds CLIP's text tower to a model folder, and says what it is."""
    from anytag.torch.export.text_tower import add_text

    added = add_text(folder, tower)
    click.echo(
        f"{folder} can be asked custom tags: {tower.origin}, {added.width} wide, {added.prompts}; "
        f"cosine with trained queries {added.agreement:.3f} (near 1: the tower it was trained with)"
    )


def describe_conversion(done: Conversion) -> str:
    """What became of a checkpoint, in lines."""
    from anytag.models.registry import describe

    size = f"{done.config.size} pixels"
    if done.source_size != done.config.size:
        size += f" (positions resampled from {done.source_size})"
    tensors = f"{done.loaded} loaded, {done.tied} second names of these, {done.derived} computed anew"
    lines = {
        "family": done.family,
        "image": size,
        "tags": f"{done.tags}, {done.descriptions} text vectors each" if done.descriptions > 1 else done.tags,
        "thresholds": done.origin,
        "tensors": tensors + (f", {done.dropped} of captions left out" if done.dropped else ""),
        "captions": "no" if done.config.captions is None else "yes",
        "size": f"{describe(done.folder).bytes / 1e6:,.1f} MB",
    }
    if done.warning:
        lines["doubt"] = done.warning
    if done.ignored:
        lines["not read"] = ", ".join(done.ignored)
    return "\n".join([str(done.folder), *(f"  {name:<11}{value}" for name, value in lines.items())])
