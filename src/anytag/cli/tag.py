"""`anytag tag`: photos in, tags out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from anytag.cli import lists, options, outputs, paths, ray, sinks, stream, writers
from anytag.cli.draw import Drawings

if TYPE_CHECKING:
    from anytag.results import Tags
    from anytag.tagger import Tagger
    from anytag.vocabulary import Asked

_SHOWN = 10  # of a list on stderr
_READABLE = click.Path(exists=True, dir_okay=False, path_type=Path)


def _task(params: Mapping[str, Any]) -> dict[str, Any]:
    """What the options mean for `anytag.scale.Task`."""
    from anytag.tagger import Tagger

    requested, added, excluded = _asked(
        *(params[name] for name in ("tags", "tags_from", "also", "exclude_tags"))
    )
    vocabulary = None
    if params["vocabulary"] or params["language"] or excluded is not None:
        tagger = Tagger.load(params["model"], vocabulary=params["vocabulary"])
        vocabulary = _limited(tagger, excluded, params["language"]).vocabulary
    ask = {"tags": requested, "also": added, "top_k": params["top_k"], "threshold": params["threshold"]}
    return {"vocabulary": vocabulary, "options": {name: one for name, one in ask.items() if one is not None}}


@click.command("tag", short_help="Tag photos.")
@click.argument("photos", metavar="PATH...", nargs=-1, type=paths.PATH)
@click.option(
    "--tags",
    metavar='"A,B,C"',
    multiple=True,
    help='Ask exactly these tags, "name" or "name: description; description", and give each with its score. '
    "May be repeated. A tag whose description holds a comma stands in double quotes.",
)
@click.option(
    "--tags-from",
    metavar="FILE",
    multiple=True,
    type=_READABLE,
    help="The same from a file, one tag a line; commas belong to descriptions, # begins a comment.",
)
@click.option(
    "--also",
    metavar='"X,Y"',
    multiple=True,
    help="Ask the vocabulary and these tags, given as those of --tags.",
)
@click.option(
    "--exclude-tags",
    metavar='"X,Y"',
    multiple=True,
    help="Leave these tags of the vocabulary out, and what is narrower: dog leaves out puppy.",
)
@click.option(
    "--vocabulary",
    metavar="FILE",
    type=_READABLE,
    help="Ask the tags of this vocabulary file, with its names and thresholds.",
)
@click.option(
    "--language", metavar="CODE", help="Show the vocabulary's tags under their names in it: de, es, fr, zh."
)
@click.option("--top-k", metavar="N", type=click.IntRange(min=1), help="At most N tags a photo.")
@click.option(
    "--threshold",
    metavar="X",
    type=options.Number(0, 1),
    help="Leave out tags that score less; 0 gives every tag.  [default: each tag's own]",
)
@click.option(
    "--where", is_flag=True, help="Give the box around each tag: left, top, right, bottom in pixels."
)
@click.option(
    "--draw",
    metavar="FOLDER",
    type=options.Folder(file_okay=False, path_type=Path),
    help="Also draw where each tag is, as PHOTO.tags.jpg for each PHOTO, below FOLDER in folders as theirs.",
)
@outputs.options(*writers.NAMES, resume=True)
@options.running
@paths.options
@ray.option(
    "tag", _task, "tags", "tags_from", "also", "exclude_tags", "vocabulary", "language", "top_k", "threshold"
)
def command(
    photos: tuple[str, ...],
    tags: tuple[str, ...],
    tags_from: tuple[Path, ...],
    also: tuple[str, ...],
    exclude_tags: tuple[str, ...],
    vocabulary: Path | None,
    language: str | None,
    top_k: int | None,
    threshold: float | None,
    where: bool,
    draw: Path | None,
    format_: str | None,
    output: Path | None,
    overwrite: bool,
    resume: bool,
    model: str | None,
    device: Literal["auto", "cpu", "cuda"],
    batch_size: int,
    workers: int | None,
    max_pixels: int,
    recursive: bool,
    exclude: tuple[str, ...],
    files_from: tuple[Path, ...],
    null: bool,
) -> None:
    """Tag photos: files, folders, globs, or - for paths from stdin, one a line.

    A bare name that the vocabulary knows, also as a synonym or in another language, is asked with its
    trained query; any other, and every described one, is made from your words. Results come in the order of
    the input.

    Exit code: 0 all good, 1 some photos failed (each is reported, the rest is done), 2 wrong use, 3 the
    result cannot be written, 130 interrupted.
    """
    requested, added, excluded = _asked(tags, tags_from, also, exclude_tags)
    named = paths.gather(photos, recursive=recursive, exclude=exclude, files_from=files_from, null=null)
    format_ = outputs.settle("tag", output, format_, writers.NAMES, photos=named.paths, overwrite=overwrite)
    outputs.refuse_for_folder(output, draw, alone=False)
    outputs.check_typed(photos, output)
    drawings = None if draw is None else Drawings(draw, named.paths, max_pixels=max_pixels)

    from anytag.tagger import Tagger  # after all that can be wrong at once

    low = _LowScores()
    with sinks.open_output(output, format_, resume=resume) as sink:
        tagger = _limited(
            Tagger.load(model, device=device, vocabulary=vocabulary, max_pixels=max_pixels),
            excluded,
            language,
        )
        sink.begin(writers.header(format_, where=where), outputs.work("tag", tagger.card))
        _warn_of_unknown_words(tagger, requested or added)
        todo = stream.Todo(named.paths, sink, output)
        results = tagger.tag_many(
            todo.paths,
            requested,
            also=added,
            top_k=top_k,
            threshold=threshold,
            where=where or draw is not None,
            batch_size=batch_size,
            workers=workers,
        )
        with closing(results):
            seen = low.watch(results if drawings is None else drawings.of(results))
            shown = stream.with_progress(seen, todo.total, is_shared=sink.is_shared)
            summary = stream.write_rows(shown, sink, _row(format_, where=where, is_terminal=sink.is_terminal))
    low.report()
    summary.end(done=todo.done, not_drawn=drawings.failed if drawings else 0)
    named.end()


def _warn_of_unknown_words(tagger: Tagger, tags: Sequence[str | Asked] | None) -> None:
    if unknown := tagger.unknown_words(tags) if tags else ():
        said = f"Words that the model does not know: {_few(unknown)}."
        click.echo(f"{said} It has pieces of them at best: such scores may mean little.", err=True)


def _limited(tagger: Tagger, excluded: list[str] | None, language: str | None) -> Tagger:
    """The tagger without some tags of its vocabulary, under names of a language."""
    if excluded is None and language is None:
        return tagger
    vocabulary = tagger.vocabulary
    if excluded is not None:
        vocabulary = vocabulary.exclude(vocabulary.find_all(excluded))
    return tagger.with_vocabulary(vocabulary if language is None else vocabulary.in_language(language))


class _LowScores:
    """The tags of --also that no photo was given, each with its best score."""

    def __init__(self) -> None:
        self._given: set[str] = set()
        self._best: dict[str, tuple[float, str, str]] = {}

    def watch(self, results: Iterable[Tags]) -> Iterator[Tags]:
        """The same results."""
        for photo in results:
            self._given.update(tag.name for tag in photo.tags if tag.source == "own")
            for tag in photo.below:
                best = (tag.score, tag.name, photo.path or "")
                self._best[tag.name] = max(best, self._best.get(tag.name, best), key=lambda one: one[0])
            yield photo

    def report(self) -> None:
        """Says them on stderr, the best first."""
        never = sorted((one for one in self._best.values() if one[1] not in self._given), reverse=True)
        if never:
            said = [f"{name} (best {score:.2f}, {writers.visible(path)})" for score, name, path in never]
            click.echo(
                f"Below the threshold in every photo: {_few(said)}. --threshold gives lower scores, "
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


def _asked(
    tags: tuple[str, ...], tags_from: tuple[Path, ...], also: tuple[str, ...], exclude_tags: tuple[str, ...]
) -> tuple[list[str | Asked] | None, list[str] | None, list[str] | None]:
    """What --tags and --tags-from, --also and --exclude-tags say."""
    requested, added = _requested(tags, tags_from), lists.between_commas(also, "--also", described=True)
    if requested is not None and (also or exclude_tags):
        raise click.UsageError(
            "--tags asks exactly these tags, --also the vocabulary and these, --exclude-tags the vocabulary "
            "without these: give one of them, or the last two."
        )
    return requested, added, lists.between_commas(exclude_tags, "--exclude-tags")


def _requested(values: tuple[str, ...], files: tuple[Path, ...]) -> list[str | Asked] | None:
    """Tags of --tags and --tags-from together, or None where neither is given."""
    listed = lists.between_commas(values, "--tags", described=True)
    if listed is None and not files:
        return None
    return [*(listed or ()), *(tag for file in files for tag in lists.tags(file, "--tags-from"))]
