"""`anytag data`: inspect, convert, check and label image-text data."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anytag._io import read_text
from anytag.cli.options import FiniteFloat, LazyChoice, OutputPath, grouped
from anytag.cli.sinks import atomic_output, is_stdout, say
from anytag.cli.writers import echo_error
from anytag.progress import counted

if TYPE_CHECKING:
    from anytag.data.rows import Row, Step

_MAX_SHOWN = 5  # invalid rows that are reported individually

Command = Callable[..., Any]


def _formats() -> Iterable[str]:
    from anytag.data.formats import FORMATS  # imports NumPy and Pillow, which --help does not need

    return FORMATS


_FORMAT = LazyChoice(_formats)


@dataclass(frozen=True)
class _Source:
    """Where rows are read from."""

    data: str
    format_: str | None
    images: str | None
    tag_list: Path | None


_source_options = grouped(
    "source",
    _Source,
    (
        click.argument("data", metavar="DATA", type=click.Path(allow_dash=True)),
        click.option(
            "--from", "format_", metavar="FORMAT", type=_FORMAT, help="[default: by name or content]"
        ),
        click.option("--images", metavar="FOLDER", help="Folder of the photos, relative to DATA's folder."),
        click.option(
            "--tag-list",
            metavar="FILE",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="Tag names that the ids of published annotations index, one per line.",
        ),
    ),
)


def _duplicate_options(command: Command) -> Command:
    """Options of commands that search for near duplicates."""
    bits = click.option(
        "--near",
        metavar="BITS",
        type=click.IntRange(-1, 256),
        default=24,
        show_default=True,
        help="Maximum distance in bits of the 256-bit hashes of copies; -1 disables the search.",
    )
    workers = click.option("--workers", metavar="N", type=click.IntRange(min=1), default=2, show_default=True)
    return bits(workers(command))


def _output(command: Command) -> Command:
    return click.argument("output", metavar="OUTPUT", type=click.Path(allow_dash=True))(command)


_model = click.option(
    "--model", metavar="NAME|FOLDER", help="The model to label with.  [default: the embedded one]"
)


@click.group("data", short_help="Inspect, convert, check and label image-text data.")
def command() -> None:
    """Work with image-text data: rows with a photo, captions and tags.

    DATA is JSON lines, Parquet, CSV of (image, tags), COCO captions or instances, the published training
    annotations of Tag2Text and RAM, one folder per class, or WebDataset shards; on disk or at a URL such as
    s3://bucket/rows.parquet. The suffix of OUTPUT selects its format; - is stdout, as JSON lines. Invalid
    rows are reported and skipped. OUTPUT is written atomically.
    """


class _Data:
    """Rows of DATA; reports rows that are skipped, unless `quiet`."""

    def __init__(self, source: _Source, *, quiet: bool = False) -> None:
        from anytag.data.formats import root_of

        self.path, self.format, self.images = source.data, source.format_, source.images
        self.inputs = [source.data, *([str(source.tag_list)] if source.tag_list else [])]
        self.names = read_text(source.tag_list).splitlines() if source.tag_list else []
        self.root = root_of(source.data)
        self.wrong, self.hidden, self.quiet = 0, 0, quiet

    def __iter__(self) -> Iterator[Row]:
        from anytag.data.formats import read

        return read(
            self.path, format=self.format, images=self.images, tag_list=self.names, on_error=self.report
        )

    def report(self, message: str) -> None:
        """Report a row that is skipped."""
        if not self.quiet:
            self._say(f"Skipped: {message}")

    def report_unreadable(self, message: str) -> None:
        """Report a row that is not changed because its photo cannot be read."""
        self._say(f"Not changed: {message}")

    def _say(self, message: str) -> None:
        self.wrong += 1
        if self.wrong <= _MAX_SHOWN:
            echo_error(message)
        else:
            self.hidden += 1

    def may_write(self, output: str, format_: str | None = None) -> None:
        """Refuse an output that exists, or that is an input."""
        from anytag.data.formats import check_output

        if not is_stdout(output):
            check_output(output, self.inputs, format=format_)

    def write(self, output: str, rows: Iterable[Row], *, format_: str | None = None) -> None:
        """Write rows with paths relative to OUTPUT, and set the exit code."""
        from anytag.data.formats import lacking, moved, root_of, write

        self.may_write(output, format_)
        format_ = format_ or ("jsonl" if is_stdout(output) else None)
        moved_rows = moved(rows, self.root, "" if is_stdout(output) else root_of(output))
        written = _Counted(moved_rows, lacking(output, format_))
        with atomic_output(output) as file:
            write(str(file), written, format=format_, tag_list=self.names)
        say(f"{counted(written.count, 'row')} -> {output}", output)
        if lost := ", ".join(f"{name} of {counted(n, 'row')}" for name, n in written.lost.items()):
            echo_error(f"This format cannot hold everything, and lacks: {lost}. JSON lines hold all.")
        self.finish()

    def finish(self) -> None:
        """Exit with code 1 if there were problems."""
        if self.wrong:
            more = f", {self.hidden} more than the messages above" if self.hidden else ""
            click.echo(f"{counted(self.wrong, 'row')} had problems{more}.", err=True)
            click.get_current_context().exit(1)


class _Counted:
    """An iterable that counts its rows, and those with something in the fields `lacks`."""

    def __init__(self, rows: Iterable[Row], lacks: Iterable[str]) -> None:
        self.rows, self.lacks, self.count = rows, tuple(lacks), 0
        self.lost: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Row]:
        for row in self.rows:
            self.count += 1
            self.lost.update(name for name in self.lacks if getattr(row, name) not in ((), "", "train"))
            yield row


@command.command("inspect")
@_source_options
@click.option(
    "--top", metavar="N", type=click.IntRange(min=1), default=20, show_default=True, help="Tags to list."
)
@click.option(
    "--photos",
    metavar="N",
    type=click.IntRange(min=0),
    default=200,
    show_default=True,
    help="Photos to measure.",
)
@click.option("--format", "as_", type=click.Choice(["text", "json"]), default="text", show_default=True)
def inspect(top: int, photos: int, as_: str, source: _Source) -> None:
    """Count rows, sources, captions and tags, and measure some photos."""
    from anytag.data.summary import summarise

    data = _Data(source)
    figures = summarise(data, data.root, photos=photos).to_dict(top=top)
    click.echo(json.dumps(figures, ensure_ascii=False, indent=2) if as_ == "json" else _text(figures))
    data.finish()


def _text(figures: dict[str, Any]) -> str:
    lines = []
    for name, value in figures.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {count}" for key, count in value.items())
        lines.append(f"{name.replace('_', ' '):<22} {'–' if value in (None, '') else value}")
    return "\n".join(lines)


@command.command("convert")
@_source_options
@_output
@click.option("--to", metavar="FORMAT", type=_FORMAT, help="[default: by OUTPUT's suffix]")
def convert(output: str, to: str | None, source: _Source) -> None:
    """Convert DATA to another format or location."""
    data = _Data(source)
    data.write(output, data, format_=to)


@command.command("split", short_help="Split rows into parts; copies stay together.")
@_source_options
@_output
@click.option(
    "--parts",
    metavar="NAME=SHARE,...",
    default="train=0.8,val=0.1,test=0.1",
    show_default=True,
    help="Parts and their shares.",
)
@_duplicate_options
def split(output: str, parts: str, near: int, workers: int, source: _Source) -> None:
    """Split rows by the content of their photos: copies stay together, order and names do not matter."""
    from anytag.data import check as checks

    data = _Data(source)
    shares = checks.parse_parts(parts)
    data.may_write(output)
    data.write(output, checks.split(data, data.root, shares, bits=near, workers=workers))


@command.command("check")
@_source_options
@click.option("--report", metavar="FILE", help="Write the findings as JSON lines.")
@click.option("--output", metavar="FILE", help="Write the rows without problems.")
@_duplicate_options
def check(report: str | None, output: str | None, near: int, workers: int, source: _Source) -> None:
    """Find photos that are missing, unreadable or copies.

    Of copies, the one in a test or validation split is kept. Exit code 1 if there are findings.
    """
    from anytag.data import check as checks

    data = _Data(source)
    if output:
        data.may_write(output)
    if report and not is_stdout(report):
        checks.check_report(report, [*data.inputs, *([output] if output else [])])
    if report and report == output:
        raise click.UsageError("--report and --output are the same file: give two.")
    found = checks.check(data, data.root, bits=near, workers=workers)
    for finding in found.findings[: 4 * _MAX_SHOWN]:
        say(f"{finding.problem:<11} {finding.image}  {finding.says}", report, output)
    if len(found.findings) > 4 * _MAX_SHOWN:
        say(f"and {len(found.findings) - 4 * _MAX_SHOWN} more", report, output)
    counts = (f"{found.count(problem)} {problem}" for problem in ("missing", "unreadable", "duplicate"))
    say(f"{counted(found.rows, 'photo')}: {', '.join(counts)}", report, output)
    if report:
        with atomic_output(report) as file:
            found.write(str(file))
    if output:
        again = _Data(source, quiet=True)
        again.write(output, (row for row, good in zip(again, found.good, strict=True) if good))
    data.wrong += len(found.findings)
    data.finish()


@command.command("shard")
@_source_options
@click.argument("folder", type=OutputPath())
@click.option(
    "--size",
    metavar="N",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Photos per shard.",
)
def shard(folder: str, size: int, source: _Source) -> None:
    """Write photos and rows as WebDataset shards (.tar) into FOLDER."""
    from anytag.data.shards import write_shards

    data = _Data(source)
    for path in write_shards(folder, data, root=data.root, size=size, on_error=data.report):
        click.echo(path)
    data.finish()


@command.command("generate", short_help="Add tags from captions and from the model.")
@_source_options
@_output
@_model
@click.option(
    "--probability",
    metavar="X",
    type=FiniteFloat(0, 1),
    help="Minimum probability of tags that the model adds.  [default: each tag's own threshold]",
)
def generate(output: str, model: str | None, probability: float | None, source: _Source) -> None:
    """Add tags parsed from captions (origin "text") and predicted by the model (origin "model")."""
    from anytag.data.engine import generate as engine
    from anytag.data.labels import Labeler
    from anytag.tagger import Tagger

    data = _Data(source)
    data.may_write(output)
    tagger = Tagger.load(model)
    parsed = engine.parse(data, Labeler(tagger.vocabulary))
    rows = engine.generate(
        parsed, data.root, tagger, probability=probability, on_error=data.report_unreadable
    )
    data.write(output, rows)


@command.command("clean", short_help="Remove tags that contradict the photos.")
@_source_options
@_output
@_model
@click.option(
    "--seen", metavar="X", type=FiniteFloat(0, 1), default=0.02, show_default=True,
    help="Remove tags whose probability in their region is lower.",
)  # fmt: skip
@click.option(
    "--outliers", metavar="SHARE", type=FiniteFloat(0, 1), default=0.05, show_default=True,
    help="Share of a tag's regions to remove as outliers.",
)  # fmt: skip
@click.option("--workers", metavar="N", type=click.IntRange(min=1), default=2, show_default=True)
def clean(
    output: str, model: str | None, seen: float, outliers: float, workers: int, source: _Source
) -> None:
    """Remove tags of captions and of the model that contradict the photo; rows record the removed tags."""
    from anytag.data.engine import clean as engine
    from anytag.tagger import Tagger

    data, config = _Data(source), engine.CleanConfig(seen=seen, outliers=outliers)
    data.may_write(output)
    rows, tagger = list(data), Tagger.load(model)
    cleaned = engine.clean(
        rows, data.root, tagger, config=config, workers=workers, on_error=data.report_unreadable
    )
    data.write(output, cleaned)


@command.command("undo", short_help="Undo one step.")
@_source_options
@_output
@click.option("--step", type=click.Choice(["parse", "generate", "clean"]), required=True)
def undo(output: str, step: Step, source: _Source) -> None:
    """Undo one step: remove the tags that it added, or restore those that it removed."""
    data = _Data(source)
    data.write(output, (row.without(step) for row in data))


@command.command("ray", short_help="Run parse, generate and check on a Ray cluster.")
@click.argument("data", metavar="DATA", type=click.Path())
@click.argument("output", metavar="FOLDER", type=OutputPath())
@click.option(
    "--stages",
    metavar="NAME,...",
    default="parse,generate,check",
    show_default=True,
    help="Stages to run, in this order.",
)
@_model
@click.option("--images", metavar="FOLDER", help="The folder of the photos.  [default: that of DATA]")
@click.option(
    "--actors",
    metavar="N",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Number of actors, with one core each.",
)
@click.option(
    "--address",
    metavar="HOST:PORT",
    help="Address of the cluster.  [default: the running one, or this machine]",
)
def ray(
    data: str,
    output: str,
    stages: str,
    model: str | None,
    images: str | None,
    actors: int,
    address: str | None,
) -> None:
    """Label a corpus larger than one machine: DATA is a file or a folder of Parquet or JSON lines.

    FOLDER receives Parquet files with the rows, their errors (column error) and a hash of each photo.
    """
    from anytag.data import cluster

    cluster.check_installed(data, output)
    from anytag.data.engine import ray as engine

    cluster.connect(address)
    engine.run(data, output, stages=stages.split(","), model=model, root=images, actors=actors)
