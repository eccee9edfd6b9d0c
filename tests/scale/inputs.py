"""Small inputs for tests of `anytag.scale`, and what is read back."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anytag.data.io import open_write
from anytag.data.parts import Parts
from anytag.scale.stages import Task


def jpeg(number: int, *, size: int = 64) -> bytes:
    """A photo that is like no other."""
    coarse = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((size, size), Image.Resampling.NEAREST).save(file, "JPEG")
    return file.getvalue()


def write_parquet(path: str, columns: dict[str, Sequence[Any]], *, group: int = 10) -> None:
    """A file of row groups of `group` rows, on disk or behind a URL."""
    table = import_module("pyarrow").table(columns)
    with open_write(path) as file:
        import_module("pyarrow.parquet").write_table(table, file, row_group_size=group)


def write_tar(path: str, members: dict[str, bytes]) -> None:
    with open_write(path) as file, tarfile.open(fileobj=file, mode="w|") as tar:
        for name, body in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))


def parts_in(folder: str | Path, task: Task) -> Parts:
    """An output that was begun."""
    parts = Parts(str(folder), task.work())
    parts.begin()
    return parts


def rows_in(parts: Parts) -> list[dict[str, Any]]:
    """All rows of an output."""
    return [row for name in sorted(parts.there()) for row in parts.read(name)]
