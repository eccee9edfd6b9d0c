"""`anytag pull`: download and install a published model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anytag.cli.bar import Bar
from anytag.cli.convert import describe_conversion, give_text

if TYPE_CHECKING:
    from anytag.models.hub import Fetched, Remote
    from anytag.torch.export.text_tower import TextTower


@click.command("pull", short_help="Download and install a model.")
@click.argument("model", metavar="MODEL")
@click.option("--name", metavar="NAME", help="Name of the installed model.  [default: its own]")
@click.option(
    "--image-size",
    metavar="PIXELS",
    type=int,
    help="Another image size than the checkpoint's; position tables are resampled.",
)
@click.option(
    "--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True,
    help="Data type of the installed weights.",
)  # fmt: skip
@click.option("--captions/--no-captions", default=True, help="Keep the caption modules.  [default: captions]")
@click.option(
    "--text", is_flag=True,
    help="Also download CLIP's text tower and add it to RAM or RAM++, installed or not, for custom tags.",
)  # fmt: skip
def command(model: str, name: str | None, text: bool, **options: Any) -> None:
    """Download and install a model.

    MODEL is ram-plus, ram or tag2text, whose published checkpoints are downloaded and converted;
    hf-hub:owner/name, a model folder on the Hugging Face Hub; or lists, the annotations of the benchmarks of
    anytag eval. The same command resumes a broken download; sizes and hashes are verified. ANYTAG_HUB can
    name a mirror of the Hub, HF_TOKEN an access token.
    """
    from anytag.errors import UnknownModelError
    from anytag.models.hub import PREFIX
    from anytag.models.published import PUBLISHED
    from anytag.models.registry import cache

    if model == "lists":
        return _pull_lists()
    if model not in PUBLISHED and not model.startswith(PREFIX):
        raise UnknownModelError(
            f"unknown model {model!r}: expected {', '.join(PUBLISHED)}, lists or {PREFIX}owner/name"
        )
    if text and model == "tag2text":
        raise click.UsageError("--text: Tag2Text has learned queries, so it does not support custom tags")
    target = cache() / _name(name or model.removeprefix(PREFIX).rpartition("/")[2])
    tower = _fetch_tower() if text else None
    if target.exists():
        click.echo(
            f"{target.name} is already installed in {target}; remove that folder to download it again."
        )
    elif model in PUBLISHED:
        _pull_published(model, target, options)
    else:
        _pull_folder(model.removeprefix(PREFIX), target)
    if tower is not None:
        give_text(target, tower)


def _pull_published(family: str, target: Path, options: dict[str, Any]) -> None:
    from anytag.models.published import PUBLISHED, downloads
    from anytag.torch.checkpoints.convert import Options, convert, lacks_embedding

    published = PUBLISHED[family]
    fetched = _fetch([*published.lists, published.checkpoint], downloads())
    checkpoint = fetched[-1]
    embedding = None
    if published.embedding and lacks_embedding(checkpoint.path):
        fetched += _fetch([published.embedding], downloads())
        embedding = fetched[-1].path
    _print_files(fetched)
    source = {"url": checkpoint.url, "revision": checkpoint.revision}
    how = Options(
        family=family, lists=downloads(), embedding=embedding, source=source,
        precision=options.pop("dtype"), **options,
    )  # fmt: skip
    click.echo(describe_conversion(convert(checkpoint.path, target, how)))
    click.echo(f"Installed as {target.name}. The downloaded files can be deleted: {downloads()}")


def _fetch_tower() -> TextTower:
    from anytag.models.published import CLIP, clip
    from anytag.torch.clip import require_transformers
    from anytag.torch.export.text_tower import read_tower

    require_transformers()  # before half a gigabyte is downloaded
    _print_files(_fetch(CLIP, clip()))
    return read_tower(clip())


def _pull_lists() -> None:
    from anytag.models.published import BENCHMARKS, lists

    _print_files(_fetch(BENCHMARKS, lists()))
    click.echo(f"Annotations are in {lists()}. Photos are not downloaded: anytag eval says which are needed.")


def _pull_folder(repository: str, target: Path) -> None:
    from anytag.models.hub import fetch_folder

    target.parent.mkdir(parents=True, exist_ok=True)
    with Bar(transient=True) as bar:
        _print_files(fetch_folder(repository, target, report=bar))
    click.echo(f"Installed as {target.name}, in {target}")


def _fetch(remotes: Iterable[Remote], folder: Path) -> list[Fetched]:
    from anytag.models.hub import fetch

    with Bar(transient=True) as bar:
        return fetch(remotes, folder, report=bar)


def _print_files(fetched: Iterable[Fetched]) -> None:
    for file in fetched:
        size = f"{file.bytes / 1e6:,.1f} MB"
        click.echo(f"{file.path.name}: {file.state}, {size}, sha256 {file.sha256[:16]}…, from {file.url}")


def _name(name: str) -> str:
    from anytag.models.card import NAME

    if NAME.fullmatch(name) is None:
        raise click.BadParameter(f"{name!r}: expected letters, digits, '.', '_' or '-'", param_hint="--name")
    return name
