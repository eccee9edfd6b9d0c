"""The labelled rows of `anytag calibrate` and `finetune`: a file, or decisions and keywords of a library."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from anytag.cli.library_sync import open_library
from anytag.errors import AnytagError
from anytag.models.registry import resolve

F = TypeVar("F", bound=Callable[..., Any])
_OWN = ""  # --from-library without a file


def options(help_: str) -> Callable[[F], F]:
    """Add the options --data and --from-library, one of which is required."""

    def decorate(command: F) -> F:
        command = click.option(
            "--from-library",
            "library",
            metavar="[FILE]",
            is_flag=False,
            flag_value=_OWN,
            type=click.Path(dir_okay=False),
            help="Instead of --data, use your decisions and keywords of a library's photos. "
            "[default: library.db in your data folder]",
        )(command)
        return click.option(
            "--data", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path), help=help_
        )(command)

    return decorate


def inputs(data: Path | None, library: str | None) -> list[str | Path]:
    """The input files, which no output may replace."""
    return [file for file in (data, library) if file]


@contextmanager
def rows_of(data: Path | None, library: str | None, model: str | None) -> Iterator[Path]:
    """The file of rows; for a library a temporary one with absolute paths of photos.

    Args:
        data: a file of rows, or None.
        library: a database, "" for the user's default, or None.
        model: the model whose vocabulary maps keywords to tags.

    Raises:
        click.UsageError: not exactly one of the two is given, or the library has no labels.
    """
    if (data is None) == (library is None):
        raise click.UsageError("Give either --data FILE or --from-library.")
    if data is not None:
        yield data
        return
    from anytag.vocabulary import Vocabulary

    vocabulary = Vocabulary.read(resolve(model) / "vocabulary.jsonl")
    with open_library(Path(library) if library else None) as found, tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{found.database.path.stem}.jsonl")
        if not write_rows(path, found.labels(vocabulary)):
            raise click.UsageError(
                f"{found.database.path} has no labels: add some with anytag library accept, reject and add, "
                "or read your own keywords with anytag library keywords."
            )
        try:
            yield path
        except AnytagError as error:  # users know the library, not this file
            error.args = (str(error).replace(str(path), str(found.database.path)),)
            raise


def write_rows(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    """Write rows as JSON lines, with escapes for names that are not valid UTF-8; returns their number."""
    count = 0
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for count, row in enumerate(rows, 1):  # noqa: B007  # used after the loop
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return count
