"""`anytag tag`: photos in, tags out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anytag.cli import lists, metadata, options, outputs, paths, ray, sinks, stream, writers
from anytag.cli.draw import Drawings

if TYPE_CHECKING:
    from anytag.metadata import Change
    from anytag.queries.requests import CustomTag
    from anytag.results import TagResult
    from anytag.tagger import Tagger
    from anytag.vocabulary import Vocabulary

_SHOWN = 10  # of a list on stderr
_READABLE = click.Path(exists=True, dir_okay=False, path_type=Path)


_ASKING = (
    click.option(
        "--tags",
        metavar='"A,B,C"',
        multiple=True,
        help='Score exactly these tags, "name" or "name: description; description". May be repeated. Put '
        "a tag whose description contains a comma in double quotes.",
    ),
    click.option(
        "--tags-from",
        metavar="FILE",
        multiple=True,
        type=_READABLE,
        help="The same from a file, one tag per line; commas are part of descriptions, # begins a comment.",
    ),
    click.option(
        "--also",
        metavar='"X,Y"',
        multiple=True,
        help="Score the vocabulary and these tags, written as for --tags.",
    ),
    click.option(
        "--exclude-tags",
        metavar='"X,Y"',
        multiple=True,
        help="Leave out these tags of the vocabulary and their narrower tags: dog also leaves out puppy.",
    ),
    click.option(
        "--vocabulary",
        metavar="FILE",
        type=_READABLE,
        help="Use the tags, names and thresholds of this vocabulary file.",
    ),
    click.option(
        "--language",
        metavar="CODE",
        help="Show the vocabulary's tags by their names in this language: de, es, fr, zh.",
    ),
    click.option("--top-k", metavar="N", type=click.IntRange(min=1), help="At most N tags per photo."),
    click.option(
        "--threshold",
        metavar="X",
        type=options.Number(0, 1),
        help="Leave out tags with a lower score; 0 gives every tag.  [default: each tag's own]",
    ),
)  # of `Asking`


@dataclass(frozen=True)
class Asking:
    """Which tags are asked, and which of them are given."""

    tags: tuple[str, ...]
    tags_from: tuple[Path, ...]
    also: tuple[str, ...]
    exclude_tags: tuple[str, ...]
    vocabulary: Path | None
    language: str | None
    top_k: int | None
    threshold: float | None

    @cached_property  # a file may be a pipe, which is read once
    def requested(self) -> list[str | CustomTag] | None:
        """Tags of --tags and --tags-from together, or None where neither is given."""
        listed = lists.between_commas(self.tags, "--tags", described=True)
        if listed is None and not self.tags_from:
            return None
        if self.also or self.exclude_tags:
            raise click.UsageError(
                "--tags asks exactly these tags, --also the vocabulary and these, --exclude-tags the "
                "vocabulary without these: give one of them, or the last two."
            )
        return [*(listed or ()), *(tag for file in self.tags_from for tag in lists.tags(file, "--tags-from"))]

    @cached_property
    def added(self) -> list[str] | None:
        """Tags of --also, or None where it is not given."""
        return lists.between_commas(self.also, "--also", described=True)

    def results(
        self, tagger: Tagger, photos: Iterable[str], running: options.Running, *, where: bool
    ) -> Generator[TagResult, None, None]:
        """The tags of photos, in their order."""
        return tagger.tag_many(
            photos,
            self.requested,
            also=self.added,
            top_k=self.top_k,
            threshold=self.threshold,
            where=where,
            batch_size=running.batch_size,
            workers=running.workers,
        )

    def tagger(self, running: options.Running) -> Tagger:
        """A tagger that asks what remains of its vocabulary, under names of a language."""
        from anytag.tagger import Tagger  # after all that can be wrong at once

        excluded = lists.between_commas(self.exclude_tags, "--exclude-tags")
        tagger = Tagger.load(
            running.model,
            device=running.device,
            vocabulary=self.vocabulary,
            max_pixels=running.max_pixels,
        )
        if excluded is None and self.language is None:
            return tagger
        vocabulary = tagger.vocabulary
        if excluded is not None:
            vocabulary = vocabulary.exclude(vocabulary.find_all(excluded))
        return tagger.with_vocabulary(
            vocabulary if self.language is None else vocabulary.in_language(self.language)
        )


def _task(params: Mapping[str, Any]) -> dict[str, Any]:
    """What the options mean for `anytag.scale.Task`."""
    asking: Asking = params["asking"]
    requested, added = asking.requested, asking.added
    vocabulary = None
    if asking.vocabulary or asking.language or asking.exclude_tags:
        vocabulary = asking.tagger(params["running"]).vocabulary
    ask = {"tags": requested, "also": added, "top_k": asking.top_k, "threshold": asking.threshold}
    return {"vocabulary": vocabulary, "options": {name: one for name, one in ask.items() if one is not None}}


@click.command("tag", short_help="Tag photos.")
@options.grouped("asking", Asking, _ASKING)
@click.option(
    "--where", is_flag=True, help="Add the bounding box of each tag: left, top, right, bottom in pixels."
)
@click.option(
    "--draw",
    metavar="FOLDER",
    type=options.Place(file_okay=False, path_type=Path),
    help="Also draw the location of each tag, into PHOTO.tags.jpg for each PHOTO, in FOLDER with the "
    "photos' subfolders.",
)
@click.option(
    "--write",
    type=click.Choice(["sidecar", "embed"]),
    help="Also write the tags into XMP sidecars, or into the photos themselves; your own keywords are kept.",
)
@click.option(
    "--undo", is_flag=True, help="Do not tag; remove what --write wrote for these photos, and nothing else."
)
@metadata.options
@outputs.options(*writers.NAMES, resume=True)
@options.running
@paths.options()
@ray.option(
    "tag", _task, "tags", "tags_from", "also", "exclude_tags", "vocabulary", "language", "top_k", "threshold"
)
def command(
    asking: Asking,
    where: bool,
    draw: Path | None,
    write: metadata.Place | None,
    undo: bool,
    keywords: metadata.KeywordOptions,
    writing: outputs.Writing,
    running: options.Running,
    source: paths.Source,
) -> None:
    """Tag photos: files, folders, globs, or - for paths from stdin, one per line.

    A bare name in the vocabulary, including synonyms and names in other languages, uses its trained query.
    Other tags, and all tags with a description, get a query made from your words. Results are in input order.

    Exit code: 0 success, 1 some photos failed (each is reported, the rest is processed), 2 usage error, 3 the
    result cannot be written, 130 interrupted.
    """
    asked = asking.requested or asking.added  # what is wrong with them is said first
    metadata.check(keywords, place=write, undo=undo)
    named, output = source.gather(), writing.output
    format_ = outputs.settle("tag", writing, writers.NAMES, photos=named.paths)
    outputs.refuse_for_folder(output, draw, alone=False)
    outputs.check_typed(source.photos, output)
    if undo:
        metadata.undo(keywords, named, output, format_)
        return
    drawings = None if draw is None else Drawings(draw, named.paths, max_pixels=running.max_pixels)
    low = _LowScores()
    with sinks.open_output(output, format_, resume=writing.resume) as sink:
        tagger = asking.tagger(running)
        sink.begin(writers.header(format_, where=where), outputs.work("tag", tagger.card))
        _warn_of_unknown_words(tagger, asked)
        todo = stream.Todo(named.paths, sink, output)
        with closing(asking.results(tagger, todo.paths, running, where=where or draw is not None)) as results:
            watched = low.watch(results if drawings is None else drawings.of(results))
            row = _row(format_, where=where, is_terminal=sink.is_terminal)
            change = None if write is None else _writer(keywords, tagger.vocabulary, write)
            summary = metadata.write_results(
                watched, change, sink, row, keywords=keywords, format_=format_, total=todo.total
            )
    low.report()
    summary.end(done=todo.done, not_drawn=drawings.failed if drawings else 0)
    named.end()


def _writer(
    keywords: metadata.KeywordOptions, vocabulary: Vocabulary, place: metadata.Place
) -> Callable[[TagResult], Change]:
    """Writes the tags of a photo."""

    def write(photo: TagResult) -> Change:
        return keywords.write(photo.path or "", keywords.of(photo.tags, vocabulary), place)

    return write


def _warn_of_unknown_words(tagger: Tagger, tags: Sequence[str | CustomTag] | None) -> None:
    if unknown := tagger.unknown_words(tags) if tags else ():
        message = f"Words that the model does not know: {_few(unknown)}."
        click.echo(f"{message} It has pieces of them at best: such scores may mean little.", err=True)


class _LowScores:
    """The tags of --also that no photo was given, each with its best score."""

    def __init__(self) -> None:
        self._given: set[str] = set()
        self._best: dict[str, tuple[float, str, str]] = {}

    def watch(self, results: Iterable[TagResult]) -> Iterator[TagResult]:
        """The same results."""
        for photo in results:
            self._given.update(tag.name for tag in photo.tags if tag.source == "custom")
            for tag in photo.below:
                best = (tag.score, tag.name, photo.path or "")
                self._best[tag.name] = max(best, self._best.get(tag.name, best), key=lambda one: one[0])
            yield photo

    def report(self) -> None:
        """Says them on stderr, the best first."""
        never = sorted((one for one in self._best.values() if one[1] not in self._given), reverse=True)
        if never:
            lines = [f"{name} (best {score:.2f}, {writers.visible(path)})" for score, name, path in never]
            click.echo(
                f"Below the threshold in every photo: {_few(lines)}. --threshold gives lower scores, "
                "--tags every score.",
                err=True,
            )


def _few(texts: Sequence[str]) -> str:
    """Texts between commas, of many the first."""
    rest = len(texts) - _SHOWN
    return ", ".join(texts[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _row(format_: str, *, where: bool, is_terminal: bool) -> writers.Format:
    if is_terminal and format_ == "text":
        return writers.terminal
    return writers.FORMATS["csv with boxes" if where and format_ == "csv" else format_]
