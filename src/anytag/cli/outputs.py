"""Options of commands that write rows, and what is checked before the work."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import click

from anytag._io import check_output, is_special, resolved
from anytag.cli import journal
from anytag.cli.options import F, grouped
from anytag.cli.sinks import STDOUT
from anytag.errors import RefusedOutputError
from anytag.suffixes import IMAGE_SUFFIXES

SUFFIXES = {".txt": "text", ".text": "text", ".jsonl": "jsonl", ".csv": "csv"}
"""What the suffix of a file says of its format, in any case."""

# of a command: what changes no row
_NEUTRAL = frozenset(
    "photos output format_ device batch_size workers recursive exclude files_from null max_pixels model "  # noqa: SIM905
    "resume overwrite".split()
)


@dataclass(frozen=True)
class Writing:
    """Where a command's rows go."""

    format_: str | None
    output: Path | None
    overwrite: bool
    resume: bool = False


class _Output(click.Path):
    """A file; with --ray, which is told first, a folder or a URL as it was typed."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, or wrong use."""
        is_far = ctx is not None and isinstance(ctx.params.get("ray"), str)
        return value if is_far else super().convert(value, param, ctx)


def options(*names: str, resume: bool = False) -> Callable[[F], F]:
    """--format, --output and --overwrite, the same for every command that writes rows: its `writing`.

    Args:
        names: the formats of the command.
        resume: it also has --resume.
    """
    found = [
        click.option(
            "--format",
            "format_",
            type=click.Choice(names),
            help="Output format.  [default: by the suffix of --output, else text]",
        ),
        click.option(
            "--output",
            metavar="FILE",
            type=_Output(dir_okay=False, allow_dash=True, path_type=Path),
            help="Write to FILE; until the end, or after an interruption, rows are in FILE.part. - is "
            "stdout.",
        ),
        click.option(
            "--overwrite",
            is_flag=True,
            help="Allow FILE to replace any file except a photo or an input, not only an earlier result.",
        ),
    ]
    if resume:
        found.append(
            click.option(
                "--resume",
                is_flag=True,
                help="Continue FILE.part, skipping photos that already have rows.",
            )
        )
    return grouped("writing", Writing, found)


def format_of(output: Path | None, option: str | None, names: Sequence[str]) -> str:
    """The one rule for formats: what --format says, else what the suffix of --output says, else text.

    Raises:
        click.UsageError: the suffix says no format among `names`.
    """
    if option is not None:
        return option
    if output is None or output == STDOUT or not output.suffix or is_special(output):
        return "text"
    format_ = SUFFIXES.get(output.suffix.lower())
    if format_ in names or output.suffix.lower() in IMAGE_SUFFIXES:  # the rule has better words for those
        return format_ or "text"
    valid = ", ".join(suffix for suffix, name in SUFFIXES.items() if name in names)
    raise click.UsageError(
        f"--output {output}: {output.suffix} is no suffix of a format of this command; expected {valid}, or "
        "a --format beside it."
    )


def settle(command: str, writing: Writing, names: Sequence[str], *, photos: Iterable[str]) -> str:
    """The format, and --output held against the one rule for outputs, before anything is loaded.

    Args:
        command: that writes.
        writing: where, and how.
        names: the command's formats.
        photos: the input; those of a stream are held against the output as they come, by `stream.Todo`.

    Raises:
        click.UsageError: the suffix says no format.
        RefusedOutputError: the output may not be written.
    """
    output = writing.output
    format_ = format_of(output, writing.format_, names)
    if output is not None and output != STDOUT:
        check_output(
            output,
            [*(photos if isinstance(photos, list) else ()), *option_files()],
            is_earlier=journal.is_result(command, format_),
            overwrite=writing.overwrite,
            hint="give another file, or --overwrite",
        )
    return format_


def option_files() -> list[Path]:
    """What options of the current command name, and what lies in folders so named, but what it writes."""
    params = click.get_current_context().params
    found: list[Path] = []
    for name, value in params.items():
        if name not in ("output", "draw"):
            one = Path(value) if name == "model" and value else value  # a folder, or a name
            paths = [path for path in (one if isinstance(one, tuple) else (one,)) if isinstance(path, Path)]
            found += [*paths, *chain.from_iterable(map(_in_folder, paths))]
    return found


def refuse_for_folder(output: Path | None, folder: Path | None, *, alone: bool) -> None:
    """Refuses an --output that would have the name of a folder that another option makes, or of one above it.

    Args:
        output: what --output says.
        folder: what the other option says.
        alone: nothing else may be in the folder either.

    Raises:
        RefusedOutputError: the two cannot both be made.
    """
    if output is None or output == STDOUT or folder is None:
        return
    file, place = resolved(output), resolved(folder)
    if file in (place, *place.parents) or (alone and place in file.parents):
        raise RefusedOutputError(f"{output} is in the way of the folder {folder}: give another file")


def _in_folder(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except (OSError, ValueError):  # a file; a model's name that is no path
        return []


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
        "folder": _working_folder(),  # paths may be relative to it
        **{name: _plain(value) for name, value in params.items() if name not in _NEUTRAL},
    }


def _working_folder() -> str:
    try:
        return os.fspath(Path.cwd())
    except OSError:  # it was removed; full paths are as good as ever
        return ""


def _plain(value: object) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if isinstance(value, Path) and value.is_file():
        return hashlib.sha256(value.read_bytes()).hexdigest()
    return os.fspath(value) if isinstance(value, Path) else value
