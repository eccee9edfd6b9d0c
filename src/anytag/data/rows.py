"""One row of training data: a photo and what is known of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anytag.errors import AnytagError


@dataclass(frozen=True, slots=True)
class Row:
    """A photo and what people said of it.

    Attributes:
        image: path of the photo, relative to the folder of the rows file.
        source: the collection it comes from.
        split: "train", "dev", "val" or "test".
        captions: sentences that describe it; what they do not mention may still be there.
        tags: names that are certainly there.
        absent: names that are certainly not there.
    """

    image: str
    source: str
    split: str
    captions: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()


def read_rows(path: Path) -> list[Row]:
    """Reads rows.jsonl.

    Raises:
        AnytagError: a line is not a row; the message names file and line.
    """
    rows: list[Row] = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                fields: dict[str, Any] = json.loads(line)
                fields = {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}
                rows.append(Row(**fields))
            except (ValueError, TypeError, AttributeError) as error:
                raise AnytagError(f"{path}, line {number}: not a row ({error})") from error
    return rows


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Writes rows.jsonl, one JSON object a line."""
    with path.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)


def select(rows: Iterable[Row], *, split: str, source: str | None = None) -> Iterator[Row]:
    """Rows of one split, and of one source when it is named."""
    return (row for row in rows if row.split == split and (source is None or row.source == source))
