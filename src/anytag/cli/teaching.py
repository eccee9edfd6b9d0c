"""Where `anytag calibrate` and `finetune` take their rows from: a file, or what people said of a library."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from anytag.cli.library_sync import opened
from anytag.models.registry import resolve

F = TypeVar("F", bound=Callable[..., Any])
_OWN = ""  # --from-library without a file


def data(help_: str) -> Callable[[F], F]:
    """The options --data and --from-library, one of which is needed."""

    def decorate(command: F) -> F:
        command = click.option(
            "--from-library",
            "library",
            metavar="[FILE]",
            is_flag=False,
            flag_value=_OWN,
            type=click.Path(dir_okay=False),
            help="Instead of --data, your decisions and keywords of a library's photos. [default: "
            "library.db in your data folder]",
        )(command)
        return click.option(
            "--data", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path), help=help_
        )(command)

    return decorate


def inputs(data: Path | None, library: str | None) -> list[str | Path]:
    """The files that are read, which no output may replace."""
    return [file for file in (data, library) if file]


@contextmanager
def rows_of(data: Path | None, library: str | None, model: str | None) -> Iterator[Path]:
    """The file of rows; a library's for the time being, with photos by their absolute paths.

    Args:
        data: a file of rows, or None.
        library: a database, "" for the user's own, or None.
        model: of whose tags keywords are labels.

    Raises:
        click.UsageError: not one of the two is given, or nothing was said of photos of the library.
    """
    if (data is None) == (library is None):
        raise click.UsageError("Give --data FILE, or --from-library for a library's: one of the two.")
    if data is not None:
        yield data
        return
    from anytag.vocabulary import Vocabulary

    vocabulary = Vocabulary.read(resolve(model) / "vocabulary.jsonl")
    with opened(Path(library) if library else None) as found, tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{found.database.path.stem}.jsonl")
        if not write_rows(path, found.labels(vocabulary)):
            raise click.UsageError(
                f"Nothing was said of photos of {found.database.path}: anytag library accept, reject and add "
                "say what is there, and anytag library keywords reads your own keywords."
            )
        yield path


def write_rows(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    """Writes rows as lines of JSON, names that are no UTF-8 as escapes; how many they were."""
    count = 0
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for count, row in enumerate(rows, 1):  # noqa: B007  # the last is how many
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return count
