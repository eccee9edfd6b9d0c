"""Options and output of commands that write or undo keywords and captions in sidecars and photos."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import click

from anytag.cli import journal, outputs, stream, writers
from anytag.cli.options import FiniteFloat
from anytag.cli.sinks import File, Stdout, open_output

if TYPE_CHECKING:
    from anytag.cli.outputs import OutputOptions
    from anytag.cli.paths import PhotoPaths
    from anytag.metadata import Change, Keyword
    from anytag.results import Caption, TagResult, TagScore
    from anytag.vocabulary import Vocabulary

F = TypeVar("F", bound=Callable[..., Any])
Target = Literal["sidecar", "embed"]

_OPTIONS = (
    click.option(
        "--prefix",
        metavar="PATH",
        help='Write tags below this keyword, "AI" or "AI|objects", to keep them apart from yours.',
    ),
    click.option("--flat", is_flag=True, help="Write tags without their parents: dog, not animal|dog."),
    click.option(
        "--min-score", metavar="X", type=FiniteFloat(0, 1), help="Write only tags with at least this score."
    ),
    click.option(
        "--sidecar-name",
        type=click.Choice(["full", "stem"]),
        help="Name of new sidecars: photo.jpg.xmp (full), or photo.xmp (stem), which Lightroom and Capture "
        "One expect for RAW.  [default: full]",
    ),
    click.option("--touch", is_flag=True, help="Update the modification time of photos that are written to."),
    click.option("--dry-run", is_flag=True, help="Write nothing; show what would change, one row per photo."),
)
_NAMES = ("prefix", "flat", "min_score", "sidecar_name", "touch", "dry_run")


@dataclass(frozen=True, slots=True)
class KeywordOptions:
    """Options for writing tags; see `anytag.metadata.write_keywords`.

    Attributes:
        given: names of the options that the user gave.
    """

    given: tuple[str, ...]
    prefix: tuple[str, ...]
    flat: bool
    min_score: float
    sidecar_name: Literal["full", "stem"]
    touch: bool
    dry_run: bool

    def of(self, tags: Iterable[TagScore], vocabulary: Vocabulary) -> list[Keyword]:
        """Tags as hierarchical keywords, best first, each name once."""
        from anytag.results import once_by_name

        found = once_by_name(tag for tag in tags if tag.score >= self.min_score)
        return [(*self.prefix, *self._path(tag, vocabulary)) for tag in found]

    def _path(self, tag: TagScore, vocabulary: Vocabulary) -> Keyword:
        from anytag.library.keywords import lineage

        found = lineage(tag, vocabulary)
        return found[-1:] if self.flat else found

    def write(
        self, path: str, keywords: Iterable[Keyword] | None, place: Target, *, caption: str | None = None
    ) -> Change:
        """Write keywords and caption of one photo; an error is in the change."""
        from anytag.metadata import write_keywords
        from anytag.metadata.write import tried

        return tried(
            path,
            lambda: write_keywords(
                path,
                keywords,
                embed=place == "embed",
                caption=caption,
                sidecar_name=self.sidecar_name,
                touch=self.touch,
                dry_run=self.dry_run,
            ),
        )

    def undo(self, path: str, *, captions_only: bool = False, lenient: bool = False) -> Change:
        """Remove what anytag wrote for one photo; an error is in the change."""
        from anytag.metadata import undo
        from anytag.metadata.write import tried

        return tried(
            path,
            lambda: undo(
                path,
                captions_only=captions_only,
                lenient=lenient,
                touch=self.touch,
                dry_run=self.dry_run,
            ),
        )


def to_write(caption: str | None) -> str | None:
    """The caption to write; None for one that says nothing."""
    from anytag.caption_check import EMPTY

    return None if caption in ("", EMPTY) else caption


R = TypeVar("R", "TagResult", "Caption")


def changes(results: Iterable[R], write: Callable[[R], Change]) -> Iterator[Change]:
    """Apply `write` to each photo that could be read."""
    from anytag.metadata import Change

    for photo in results:
        yield Change(photo.path or "", error=photo.error) if photo.error else write(photo)


def write_each(results: Iterable[R], write: Callable[[R], Change]) -> Iterator[R]:
    """Yield the results after writing each; those that could not be written have the error."""
    for photo in results:
        change = next(iter(print_notes(changes([photo], write))))
        yield replace(photo, error=change.error) if change.error else photo


def write_results(
    results: Iterable[R],
    write: Callable[[R], Change] | None,
    sink: Stdout | File,
    row: Callable[[R], str],
    *,
    keywords: KeywordOptions,
    format_: str,
    total: int | None,
) -> stream.Summary:
    """Output a row per photo, after `write` if given; in a dry run, rows of what would change."""
    if write is not None and keywords.dry_run:
        return write_changes(changes(results, write), sink, format_, total)
    done = results if write is None else write_each(results, write)
    return stream.write_rows(stream.with_progress(done, total, is_shared=sink.is_shared), sink, row)


def undo(
    keywords: KeywordOptions,
    photos: PhotoPaths,
    output: Path | None,
    format_: str,
    *,
    captions_only: bool = False,
) -> None:
    """Remove what anytag wrote for some photos, and output a row each."""

    def work(path: str) -> Change:
        return keywords.undo(path, captions_only=captions_only)

    with open_output(output, format_) as sink:
        summary = write_changes(map(work, photos.paths), sink, format_, photos.total)
    summary.end()
    photos.end()


def options(command: F) -> F:
    """Add the options for tags, passed to the command as `keywords`."""
    return _decorated(_OPTIONS, command)


def caption_options(command: F) -> F:
    """Add the options for captions, passed to the command as `keywords`."""
    return _decorated(_OPTIONS[3:], command)


def _decorated(some: Sequence[Callable[[Any], Any]], command: F) -> F:
    @wraps(command)
    def with_keywords(*args: Any, **params: Any) -> Any:
        given = {name: params.pop(name) for name in _NAMES if name in params}
        return command(*args, keywords=_keywords(**given), **params)

    found: Any = with_keywords
    for option in reversed(some):
        found = option(found)
    return cast(F, found)


def check_format(
    command: str, output_options: OutputOptions, names: Sequence[str], *, photos: Iterable[str], changes: bool
) -> str:
    """As `outputs.check_format`; with `changes` for rows of changes instead of the command's own.

    Raises:
        click.UsageError: changes have no such format.
    """
    if not changes:
        return outputs.check_format(command, output_options, names, photos=photos)
    if output_options.format_ == "csv":
        raise click.UsageError("Changes are written as text or jsonl: give --format jsonl.")
    return outputs.check_format("changes", output_options, ("text", "jsonl"), photos=photos)


def check(keywords: KeywordOptions, *, place: Target | None, undo: bool, resume: bool = False) -> None:
    """Check the options for writing, and that exiftool is installed.

    Raises:
        click.UsageError: options conflict.
        MissingToolError: exiftool is not installed.
    """
    if place and undo:
        raise click.UsageError("--write and --undo exclude each other: give one of them.")
    if undo and resume:
        raise click.UsageError("--undo cannot be resumed: run it again for all photos.")
    if keywords.given and not place and not undo:
        raise click.UsageError(f"{', '.join(keywords.given)} needs --write sidecar or --write embed.")
    if undo and (useless := set(keywords.given) - {"--touch", "--dry-run"}):
        raise click.UsageError(
            f"{', '.join(sorted(useless))} cannot be used with --undo, which writes no tags."
        )
    if place or undo:
        from anytag.metadata.exiftool import find

        find()


def write_changes(
    changes: Iterable[Change], sink: Stdout | File, format_: str, total: int | None
) -> stream.Summary:
    """Output changes as rows, and count them."""
    shown = stream.with_progress(print_notes(changes), total, is_shared=sink.is_shared)
    return stream.write_rows(shown, sink, jsonl if format_ == "jsonl" else text)


def text(change: Change) -> str:
    """Format as `path<TAB>+dog, -cat<TAB>files`; a photo without changes has no line."""
    if change.error or not change.files:
        return ""
    words = [f"+{word}" for word in change.added] + [f"-{word}" for word in change.removed]
    if change.caption is not None:
        words.append(f"caption: {change.caption}" if change.caption else "-caption")
    columns = (change.path, ", ".join(words) or journal.SAME_KEYWORDS, ", ".join(change.files))
    return "\t".join(map(writers.visible, columns)) + "\n"


def jsonl(change: Change) -> str:
    """`Change.to_dict()` as one line of JSON."""
    return json.dumps(change.to_dict(), ensure_ascii=False) + "\n"


def print_notes(changes: Iterable[Change]) -> Iterator[Change]:
    """Yield the changes, and print their notes to stderr."""
    for change in changes:
        if change.note:
            click.echo(f"{writers.visible(change.path)}: {writers.visible(change.note)}", err=True)
        yield change


def _keywords(
    *,
    sidecar_name: Literal["full", "stem"] | None,
    prefix: str | None = None,
    min_score: float | None = None,
    flat: bool = False,
    **others: bool,
) -> KeywordOptions:
    flags = {"flat": flat, **others}
    params = {"prefix": prefix, "min_score": min_score, "sidecar_name": sidecar_name, **flags}
    given = [
        f"--{name.replace('_', '-')}"
        for name in _NAMES
        if params[name] is not None and params[name] is not False
    ]
    parts = (part.strip() for part in re.split(r"[|/]", prefix or ""))
    return KeywordOptions(
        given=tuple(given),
        prefix=tuple(part for part in parts if part),
        min_score=min_score or 0.0,
        sidecar_name=sidecar_name or "full",
        **flags,
    )
