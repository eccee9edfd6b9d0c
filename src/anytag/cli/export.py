"""`anytag export`: export a model folder's torch weights to ONNX, so that it runs without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from anytag.cli import paths

if TYPE_CHECKING:
    from anytag.torch.export.export_folder import Precision


@click.command("export", short_help="Export a converted folder to ONNX, so that it runs without torch.")
@click.argument("folder", metavar="FOLDER", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--precision", type=click.Choice(["float32", "float16", "int8"]), default="float32", show_default=True,
    help="Precision of matrix products: float16, of half the size, is for GPUs, int8 is fastest on a CPU. "
    "Caption graphs are quantised weight-only.",
)  # fmt: skip
@click.option(
    "--photos", metavar="PATH", multiple=True,
    help="Photos to measure the cost of quantisation on; may be repeated.  [default: noise]",
)  # fmt: skip
@click.option(
    "--first-pass", metavar="N", type=click.IntRange(min=1),
    help="Decode only the N likeliest tags of a photo, after a first pass that is trained on the --photos.",
)  # fmt: skip
def command(folder: Path, precision: Precision, photos: tuple[str, ...], first_pass: int | None) -> None:
    """Write image.onnx, tags.onnx and the graphs of a caption head, if there is one, into FOLDER.

    Below float32, also writes tags_rounded.onnx; scores close to a threshold are recomputed with tags.onnx.

    Each graph is first compared with the torch network. The batch size and the numbers of tags and
    descriptions are dynamic; the image size is fixed.
    """
    from anytag.torch.export.export_folder import export_folder

    named = [Path(path) for path in paths.gather(photos, recursive=False).paths] if photos else []
    cost = export_folder(folder, precision=precision, photos=named)
    click.echo(f"{folder}: graphs in {precision}; in float32 they match the network")
    if cost is not None:
        click.echo(
            f"On {cost.photos} photos: largest logit difference {cost.largest:.2g}; "
            f"{cost.flips:.2%} of {cost.predicted} predicted tags change"
        )
        if captions := cost.captions:
            click.echo(
                f"On {captions.photos} captions: largest logit difference {captions.largest:.2g}; "
                f"{captions.changed:.2%} change"
            )
    if first_pass is not None:
        from anytag.torch.training.prefilter import learn_first_pass

        found = learn_first_pass(folder, named, shortlist=first_pass)
        click.echo(
            f"First pass: {found.lost:.2%} of {found.predicted} predicted tags on {found.photos} photos lost"
        )
