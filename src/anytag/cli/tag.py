"""`anytag tag`: tag photos."""

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

_MAX_SHOWN = 10  # items of a list on stderr
_MAX_LENGTH = 80  # characters of a word on stderr
_READABLE = click.Path(exists=True, dir_okay=False, path_type=Path)


_TAG_OPTIONS = (
    click.option(
        "--tags",
        metavar='"A,B,C"',
        multiple=True,
        help='Score exactly these tags, "name" or "name: description; description", without a threshold. May '
        "be repeated. Put a tag whose description contains a comma in double quotes.",
    ),
    click.option(
        "--tags-from",
        metavar="FILE",
        multiple=True,
        type=_READABLE,
        help="As --tags, from a file with one tag per line; commas belong to descriptions, # is a comment.",
    ),
    click.option(
        "--also",
        metavar='"X,Y"',
        multiple=True,
        help="Score the vocabulary and these tags, in the form of --tags.",
    ),
    click.option(
        "--exclude-tags",
        metavar='"X,Y"',
        multiple=True,
        help="Leave out these tags of the vocabulary and their descendants: dog also excludes puppy.",
    ),
    click.option(
        "--vocabulary",
        metavar="FILE",
        type=_READABLE,
        help="Use the tags of this vocabulary file, with its names and thresholds.",
    ),
    click.option(
        "--language",
        metavar="CODE",
        help="Show the names of the vocabulary's tags in this language: de, es, fr, zh.",
    ),
    click.option(
        "--top-k", metavar="N", type=click.IntRange(min=1), help="Maximum number of tags per photo."
    ),
    click.option(
        "--threshold",
        metavar="X",
        type=options.FiniteFloat(0, 1),
        help="Leave out tags with lower scores; 0 returns all tags.  [default: each tag's own]",
    ),
)


@dataclass(frozen=True)
class TagOptions:
    """Which tags are scored, and which are returned."""

    tags: tuple[str, ...]
    tags_from: tuple[Path, ...]
    also: tuple[str, ...]
    exclude_tags: tuple[str, ...]
    vocabulary: Path | None
    language: str | None
    top_k: int | None
    threshold: float | None

    @cached_property  # a file may be a pipe, which can be read only once
    def requested(self) -> list[str | CustomTag] | None:
        """Tags of --tags and --tags-from; None if neither is given."""
        listed = lists.split_commas(self.tags, "--tags", described=True)
        if listed is None and not self.tags_from:
            return None
        if self.also or self.exclude_tags:
            raise click.UsageError(
                "--tags scores exactly these tags, --also the vocabulary and these, --exclude-tags the "
                "vocabulary without these: give one of them, or the last two."
            )
        return [*(listed or ()), *(tag for file in self.tags_from for tag in lists.tags(file, "--tags-from"))]

    @cached_property
    def added(self) -> list[str] | None:
        """Tags of --also; None if it is not given."""
        return lists.split_commas(self.also, "--also", described=True)

    def results(
        self, tagger: Tagger, photos: Iterable[str], model_options: options.ModelOptions, *, where: bool
    ) -> Generator[TagResult, None, None]:
        """Tag photos, in order."""
        return tagger.tag_many(
            photos,
            self.requested,
            also=self.added,
            top_k=self.top_k,
            threshold=self.threshold,
            where=where,
            batch_size=model_options.batch_size,
            workers=model_options.workers,
        )

    def tagger(self, model_options: options.ModelOptions) -> Tagger:
        """Load a tagger with the selected vocabulary and language."""
        from anytag.tagger import Tagger  # imported after the options are checked: it is slow

        excluded = lists.split_commas(self.exclude_tags, "--exclude-tags")
        tagger = Tagger.load(
            model_options.model,
            device=model_options.device,
            vocabulary=self.vocabulary,
            max_pixels=model_options.max_pixels,
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
    """The fields of `anytag.scale.Task` from the options."""
    tag_options: TagOptions = params["tag_options"]
    requested, added = tag_options.requested, tag_options.added
    vocabulary = None
    if tag_options.vocabulary or tag_options.language or tag_options.exclude_tags:
        vocabulary = tag_options.tagger(params["model_options"]).vocabulary
    ask = {"tags": requested, "also": added, "top_k": tag_options.top_k, "threshold": tag_options.threshold}
    return {"vocabulary": vocabulary, "options": {name: one for name, one in ask.items() if one is not None}}


@click.command("tag", short_help="Tag photos.")
@options.grouped("tag_options", TagOptions, _TAG_OPTIONS)
@click.option(
    "--where", is_flag=True, help="Add the bounding box of each tag: left, top, right, bottom in pixels."
)
@click.option(
    "--draw",
    metavar="FOLDER",
    type=options.OutputPath(file_okay=False, path_type=Path),
    help="Also draw the tags of each PHOTO with their locations, as PHOTO.tags.jpg below FOLDER.",
)
@click.option(
    "--write",
    type=click.Choice(["sidecar", "embed"]),
    help="Also write the tags into XMP sidecars, or into the photos themselves; your own keywords are kept.",
)
@click.option(
    "--undo", is_flag=True, help="Tag nothing; remove what --write wrote for these photos, and nothing else."
)
@metadata.options
@outputs.options(*writers.NAMES, resume=True)
@options.model_options
@paths.options()
@ray.option(
    "tag", _task, "tags", "tags_from", "also", "exclude_tags", "vocabulary", "language", "top_k", "threshold"
)
def command(
    tag_options: TagOptions,
    where: bool,
    draw: Path | None,
    write: metadata.Target | None,
    undo: bool,
    keywords: metadata.KeywordOptions,
    output_options: outputs.OutputOptions,
    model_options: options.ModelOptions,
    source: paths.Source,
) -> None:
    """Tag photos: files, folders, globs, or - for paths from stdin, one per line.

    A custom tag without a description that the vocabulary knows, also as a synonym or in another language, is
    scored with its trained query; for all others a query is made from your words. Results are in the order of
    the input.

    Exit code: 0 success, 1 some photos failed (each is reported, the others are done), 2 invalid usage, 3
    the output cannot be written, 130 interrupted.
    """
    custom_tags = tag_options.requested or tag_options.added  # parsed first, to report their errors first
    metadata.check(keywords, place=write, undo=undo, resume=output_options.resume)
    photos, output = source.gather(), output_options.output
    format_ = metadata.check_format(
        "tag", output_options, writers.NAMES, photos=photos.paths, changes=undo or keywords.dry_run
    )
    outputs.check_folder_conflict(output, draw, alone=False)
    outputs.check_missing_folders(source.photos, output)
    if undo:
        metadata.undo(keywords, photos, output, format_)
        return
    drawings = None if draw is None else Drawings(draw, photos.paths, max_pixels=model_options.max_pixels)
    low = _LowScores()
    with sinks.open_output(output, format_, resume=output_options.resume) as sink:
        tagger = tag_options.tagger(model_options)
        sink.begin(writers.header(format_, where=where), outputs.run_settings("tag", tagger.card))
        _warn_of_unknown_words(tagger, custom_tags)
        todo = stream.Pending(photos.paths, sink, output)
        with closing(
            tag_options.results(tagger, todo.paths, model_options, where=where or draw is not None)
        ) as results:
            watched = low.record(results if drawings is None else drawings.of(results))
            row = _row(format_, where=where, is_terminal=sink.is_terminal)
            change = None if write is None else _writer(keywords, tagger.vocabulary, write)
            summary = metadata.write_results(
                watched, change, sink, row, keywords=keywords, format_=format_, total=todo.total
            )
    low.report()
    summary.end(done=todo.done, not_drawn=drawings.failed if drawings else 0)
    photos.end()


def _writer(
    keywords: metadata.KeywordOptions, vocabulary: Vocabulary, place: metadata.Target
) -> Callable[[TagResult], Change]:
    """A function that writes the tags of a photo."""

    def write(photo: TagResult) -> Change:
        return keywords.write(photo.path or "", keywords.of(photo.tags, vocabulary), place)

    return write


def _warn_of_unknown_words(tagger: Tagger, tags: Sequence[str | CustomTag] | None) -> None:
    if unknown := tagger.unknown_words(tags) if tags else ():
        words = [word if len(word) <= _MAX_LENGTH else f"{word[:_MAX_LENGTH]}..." for word in unknown]
        message = f"Words that the model does not know: {_shortened(words)}."
        click.echo(f"{message} Scores of these tags may be unreliable.", err=True)


class _LowScores:
    """The tags of --also that are below the threshold in all photos, with their best scores."""

    def __init__(self) -> None:
        self._given: set[str] = set()
        self._best: dict[str, tuple[float, str, str]] = {}

    def record(self, results: Iterable[TagResult]) -> Iterator[TagResult]:
        """Yield the results unchanged."""
        for photo in results:
            self._given.update(tag.name for tag in photo.tags)
            for tag in photo.below:
                best = (tag.score, tag.name, photo.path or "")
                self._best[tag.name] = max(best, self._best.get(tag.name, best), key=lambda one: one[0])
            yield photo

    def report(self) -> None:
        """Print them to stderr, best first."""
        never = sorted((one for one in self._best.values() if one[1] not in self._given), reverse=True)
        if never:
            lines = [f"{name} (best {score:.2f}, {writers.visible(path)})" for score, name, path in never]
            click.echo(
                f"Below the threshold in every photo: {_shortened(lines)}. --threshold shows lower scores, "
                "--tags all scores.",
                err=True,
            )


def _shortened(texts: Sequence[str]) -> str:
    """Join texts with commas; after the first `_MAX_SHOWN`, only count them."""
    rest = len(texts) - _MAX_SHOWN
    return ", ".join(texts[:_MAX_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _row(format_: str, *, where: bool, is_terminal: bool) -> writers.Format:
    if is_terminal and format_ == "text":
        return writers.terminal
    return writers.FORMATS["csv with boxes" if where and format_ == "csv" else format_]
