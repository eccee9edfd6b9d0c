"""Options of commands that write rows, and checks of their output before the work."""

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
"""Formats by lower-case suffix of the output."""

# parameters of commands that do not change the rows
_IRRELEVANT = frozenset(
    "photos output format_ device batch_size workers recursive exclude files_from null max_pixels model "  # noqa: SIM905
    "resume overwrite".split()
)


@dataclass(frozen=True)
class OutputOptions:
    """Where and how rows are written."""

    format_: str | None
    output: Path | None
    overwrite: bool
    resume: bool = False


class _Output(click.Path):
    """A file; with --ray, which is parsed first, a folder or a URL, unchanged."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert to a path, or fail."""
        is_far = ctx is not None and isinstance(ctx.params.get("ray"), str)
        return value if is_far else super().convert(value, param, ctx)


def options(*names: str, resume: bool = False) -> Callable[[F], F]:
    """Add --format, --output and --overwrite, passed to the command as `output_options`.

    Args:
        names: the formats of the command.
        resume: add --resume.
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
            help="Write to FILE; until the end, or if interrupted, rows are in FILE.part. - is stdout.",
        ),
        click.option(
            "--overwrite",
            is_flag=True,
            help="Replace FILE even if it is not an earlier result; photos and inputs are never replaced.",
        ),
    ]
    if resume:
        found.append(
            click.option(
                "--resume",
                is_flag=True,
                help="Continue FILE.part: skip photos that it has rows of.",
            )
        )
    return grouped("output_options", OutputOptions, found)


def format_of(output: Path | None, option: str | None, names: Sequence[str]) -> str:
    """The format: --format, else by the suffix of --output, else text.

    Raises:
        click.UsageError: the suffix is not of a format in `names`.
    """
    if option is not None:
        return option
    if output is None or output == STDOUT or not output.suffix or is_special(output):
        return "text"
    format_ = SUFFIXES.get(output.suffix.lower())
    if format_ in names or output.suffix.lower() in IMAGE_SUFFIXES:  # `check_output` refuses images
        return format_ or "text"
    valid = ", ".join(suffix for suffix, name in SUFFIXES.items() if name in names)
    raise click.UsageError(
        f"--output {output}: unknown suffix {output.suffix}; expected {valid}, or give --format."
    )


def check_format(
    command: str, output_options: OutputOptions, names: Sequence[str], *, photos: Iterable[str]
) -> str:
    """Determine the format and check --output, before anything is loaded.

    Args:
        command: name of the command.
        output_options: its output.
        names: its formats.
        photos: the inputs; those of a stream are checked as they arrive, by `stream.Pending`.

    Raises:
        click.UsageError: the suffix is not of a format.
        RefusedOutputError: the output may not be written.
    """
    output = output_options.output
    format_ = format_of(output, output_options.format_, names)
    if output is not None and output != STDOUT:
        check_output(
            output,
            [*(photos if isinstance(photos, list) else ()), *input_files()],
            is_earlier=journal.is_result(command, format_),
            overwrite=output_options.overwrite,
            hint="give another file, or --overwrite",
        )
    return format_


def input_files() -> list[Path]:
    """Files that options of the current command name, except its outputs, and files in folders they name."""
    params = click.get_current_context().params
    found: list[Path] = []
    for name, value in params.items():
        if name not in ("output", "draw"):
            one = Path(value) if name == "model" and value else value  # a folder, or a name
            paths = [path for path in (one if isinstance(one, tuple) else (one,)) if isinstance(path, Path)]
            found += [*paths, *chain.from_iterable(map(_files_in, paths))]
    return found


def check_folder_conflict(output: Path | None, folder: Path | None, *, alone: bool) -> None:
    """Refuse an --output that is the folder of another option, or a parent of it.

    Args:
        output: value of --output.
        folder: value of the other option.
        alone: also refuse an output in the folder.

    Raises:
        RefusedOutputError: the two conflict.
    """
    if output is None or output == STDOUT or folder is None:
        return
    file, place = resolved(output), resolved(folder)
    if file in (place, *place.parents) or (alone and place in file.parents):
        raise RefusedOutputError(f"{output} conflicts with the folder {folder}: give another file")


def _files_in(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except (OSError, ValueError):  # a file, or a model's name that is not a path
        return []


def check_missing_folders(photos: Iterable[str], output: Path | None) -> None:
    """Refuse missing folders, probably typos, if an earlier result would be replaced.

    Raises:
        click.UsageError: a path that looks like a folder does not exist, and the output does.
    """
    if output is None or not output.is_file() or not output.stat().st_size:
        return
    for path in photos:
        is_photo = bool(Path(path).suffix) and not path.endswith(("/", os.sep))
        if not is_photo and path != "-" and not os.path.lexists(path) and not any(c in path for c in "*?["):
            raise click.UsageError(
                f"{path} does not exist, and {output} would be replaced: correct the path."
            )


def run_settings(command: str, card: object) -> dict[str, Any]:
    """The options and the model that determine the rows of the current command, for `sinks.File.begin`."""
    params = click.get_current_context().params
    return {
        "anytag": command,
        "model": hashlib.sha256(repr(card).encode()).hexdigest(),
        "folder": _working_folder(),  # paths may be relative to it
        **{name: _plain(value) for name, value in params.items() if name not in _IRRELEVANT},
    }


def _working_folder() -> str:
    try:
        return os.fspath(Path.cwd())
    except OSError:  # it was deleted; absolute paths still work
        return ""


def _plain(value: object) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if isinstance(value, Path) and value.is_file():
        return hashlib.sha256(value.read_bytes()).hexdigest()
    return os.fspath(value) if isinstance(value, Path) else value
