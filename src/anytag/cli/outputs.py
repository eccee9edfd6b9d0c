"""Options of commands that write rows, and what is checked before the work."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from anytag._io import check_output, is_special
from anytag.cli import journal
from anytag.cli.sinks import STDOUT
from anytag.suffixes import IMAGE_SUFFIXES

SUFFIXES = {".txt": "text", ".text": "text", ".jsonl": "jsonl", ".csv": "csv"}
"""What the suffix of a file says of its format, in any case."""

F = TypeVar("F", bound=Callable[..., Any])

# of a command: what changes no row
_NEUTRAL = frozenset(
    "photos output format_ device batch_size workers recursive exclude files_from null max_pixels model "  # noqa: SIM905
    "resume overwrite".split()
)


def options(*names: str, resume: bool = False) -> Callable[[F], F]:
    """--format, --output and --overwrite, the same for every command that writes rows.

    Args:
        names: the formats of the command.
        resume: it also has --resume.
    """
    found = [
        click.option(
            "--format",
            "format_",
            type=click.Choice(names),
            help="How to write results.  [default: by the suffix of --output, else text]",
        ),
        click.option(
            "--output",
            metavar="FILE",
            type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
            help="Write to FILE; until all is done, or if you interrupt, rows are in FILE.part. - is stdout.",
        ),
        click.option(
            "--overwrite",
            is_flag=True,
            help="FILE may replace any file but a photo or an input, not only an earlier result.",
        ),
    ]
    if resume:
        found.append(
            click.option(
                "--resume",
                is_flag=True,
                help="Go on with FILE.part: photos whose rows are there are skipped.",
            )
        )

    def add(command: F) -> F:
        for option in reversed(found):
            command = option(command)
        return command

    return add


def format_of(output: Path | None, given: str | None, names: Sequence[str]) -> str:
    """The one rule for formats: what --format says, else what the suffix of --output says, else text.

    Raises:
        click.UsageError: the suffix says no format among `names`.
    """
    if given is not None:
        return given
    if output is None or output == STDOUT or not output.suffix or is_special(output):
        return "text"
    format_ = SUFFIXES.get(output.suffix.lower())
    if format_ in names or output.suffix.lower() in IMAGE_SUFFIXES:  # the rule has better words for those
        return format_ or "text"
    known = ", ".join(suffix for suffix, name in SUFFIXES.items() if name in names)
    raise click.UsageError(
        f"--output {output}: {output.suffix} is no suffix of a format of this command; expected {known}, or "
        "a --format beside it."
    )


def settle(
    command: str,
    output: Path | None,
    given: str | None,
    names: Sequence[str],
    *,
    photos: Iterable[str],
    overwrite: bool,
) -> str:
    """The format, and --output held against the one rule for outputs, before anything is loaded.

    Args:
        command: that writes.
        output: what --output says.
        given: what --format says.
        names: the command's formats.
        photos: the input; those of a stream are held against the output as they come, by `stream.Todo`.
        overwrite: what --overwrite says.

    Raises:
        click.UsageError: the suffix says no format.
        RefusedOutputError: the output may not be written.
    """
    format_ = format_of(output, given, names)
    if output is not None and output != STDOUT:
        check_output(
            output,
            [*(photos if isinstance(photos, list) else ()), *option_files()],
            is_earlier=journal.is_result(command, format_),
            overwrite=overwrite,
            hint="give another file, or --overwrite",
        )
    return format_


def option_files() -> list[Path]:
    """The files that options of the current command name, but those it writes."""
    params = click.get_current_context().params
    found: list[Path] = []
    for name, value in params.items():
        if name not in ("output", "draw"):
            found += [
                one for one in (value if isinstance(value, tuple) else (value,)) if isinstance(one, Path)
            ]
    return found


def check_typed(photos: Iterable[str], output: Path | None) -> None:
    """A folder's name with a typo must not replace yesterday's result by a row that says so.

    Raises:
        click.UsageError: a path that looks like a folder is not there, and there is a result.
    """
    if output is None or not output.is_file() or not output.stat().st_size:
        return
    for path in photos:
        is_photo = bool(Path(path).suffix) and not path.endswith(("/", os.sep))
        if not is_photo and path != "-" and not os.path.lexists(path) and not any(c in path for c in "*?["):
            raise click.UsageError(f"{path} is not there, and {output} would be replaced: correct the path.")


def work(command: str, card: object) -> dict[str, Any]:
    """What makes the rows of the current command as they are, for `sinks.File.begin`: options and model."""
    params = click.get_current_context().params
    return {
        "anytag": command,
        "model": hashlib.sha256(repr(card).encode()).hexdigest(),
        "folder": os.fspath(Path.cwd()),  # paths may be relative to it
        **{name: _plain(value) for name, value in params.items() if name not in _NEUTRAL},
    }


def _plain(value: object) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if isinstance(value, Path) and value.is_file():
        return hashlib.sha256(value.read_bytes()).hexdigest()
    return os.fspath(value) if isinstance(value, Path) else value
