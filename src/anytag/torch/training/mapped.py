"""Lazy sequences over memory-mapped arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from anytag._typing import Ints

Columns = tuple[int, ...]


class RaggedArray(Sequence[Columns]):
    """Lists of integers of different lengths, concatenated in one array.

    Args:
        values: int32, the values of all lists.
        ends: int64, the end of each list in `values`.
    """

    def __init__(self, values: npt.NDArray[np.int32], ends: Ints) -> None:
        self.values, self.ends = values, ends

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, number: int) -> Columns: ...
    @overload
    def __getitem__(self, number: slice) -> list[Columns]: ...
    def __getitem__(self, number: int | slice) -> Columns | list[Columns]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        start, end = bounds(self.ends, number)
        return tuple(self.values[start:end].tolist())


class Subset(Sequence[Any]):
    """Some entries of a sequence, in a given order."""

    def __init__(self, of: Callable[[int], Any], which: npt.NDArray[np.int32]) -> None:
        self.of, self.which = of, which

    def __len__(self) -> int:
        return len(self.which)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self.of(int(one)) for one in self.which[number]]
        return self.of(int(self.which[number]))


def bounds(ends: Ints, number: int) -> tuple[int, int]:
    """Start and end of list `number`.

    Raises:
        IndexError: `number` is out of range.
    """
    if not -len(ends) <= number < len(ends):
        raise IndexError(number)
    number %= len(ends)
    return int(ends[number - 1]) if number else 0, int(ends[number])


def mapped(file: Path, kind: Any) -> npt.NDArray[Any]:
    """A raw array, memory-mapped unless the file is empty, which cannot be mapped."""
    return np.memmap(file, kind, mode="r") if file.stat().st_size else np.empty(0, kind)
