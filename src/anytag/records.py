"""Arrays of one shape in a file that is appended to and read in parts, so that millions need no memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from anytag._typing import Ints
from anytag.errors import AnytagError

Kind = Literal["tokens", "tags"]
FORMATS: dict[Kind, tuple[int, str, str]] = {
    "tokens": (1, "tokens.f16", "<f2"),
    "tags": (2, "tags.f32", "<f4"),
}
"""Format number, file name and dtype of what galleries store besides embeddings."""


class Layout(NamedTuple):
    """What is stored per photo: T×`width` numbers of a kind, and an embedding of `space` dimensions."""

    kind: Kind
    width: int
    space: int


Layouts = Mapping[Layout, str]
"""Layouts that a model can read, with the hash of all that determines their content; it writes the first."""


class Records(Protocol):
    """N arrays of one shape: a numpy array N×..., or one on disk that is read in parts."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, numbers: Any, /) -> npt.NDArray[Any]: ...


@dataclass(frozen=True)
class RecordFile:
    """Arrays of one shape and dtype in a file, one per slot, read and written by slot.

    Attributes:
        path: the file; it need not exist yet.
        shape: of one record.
        dtype: little-endian.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def bytes(self) -> int:
        """Size of one record."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __len__(self) -> int:
        """Number of complete records."""
        try:
            return self.path.stat().st_size // self.bytes
        except FileNotFoundError:
            return 0

    def map(self) -> npt.NDArray[Any]:
        """Map all complete records, N×shape, read-only, without reading them into memory.

        Raises:
            AnytagError: the file cannot be read.
        """
        count = len(self)
        if not count:
            return np.zeros((0, *self.shape), self.dtype)
        try:
            return np.memmap(self.path, self.dtype, "r", shape=(count, *self.shape))
        except (OSError, ValueError) as error:
            raise AnytagError(f"{self.path} cannot be read: {error}") from error

    def read(self, slots: Ints) -> npt.NDArray[Any]:
        """Read the records of n slots: n×shape.

        Raises:
            AnytagError: the file does not contain all of them.
        """
        found = np.empty((len(slots), *self.shape), self.dtype)
        try:
            with self.path.open("rb") as file:
                for start, end in _runs(slots):
                    file.seek(int(slots[start]) * self.bytes)
                    if (
                        file.readinto(found[start:end].reshape(-1).view(np.uint8).data)
                        < found[start:end].nbytes
                    ):
                        raise AnytagError(f"{self.path} is truncated: encode the photos again")
        except OSError as error:
            raise AnytagError(f"{self.path} cannot be read: {error.strerror or error}") from error
        return found

    def write(self, slots: Ints, records: npt.NDArray[Any]) -> None:
        """Write n records n×shape to their slots."""
        whole = np.ascontiguousarray(records, self.dtype)
        with self.path.open("r+b" if self.path.exists() else "w+b", buffering=0) as file:
            for start, end in _runs(slots):
                file.seek(int(slots[start]) * self.bytes)
                left = whole[start:end].reshape(-1).view(np.uint8).data
                while left:  # an unbuffered write may be partial
                    left = left[file.write(left) :]


class RecordsAt:
    """Records of a file at some slots, as an array N×... that is read in parts."""

    def __init__(self, file: RecordFile, slots: Ints) -> None:
        self._file, self._slots = file, slots
        self.shape = (len(slots), *file.shape)

    def __len__(self) -> int:
        return len(self._slots)

    def __getitem__(self, numbers: Any, /) -> npt.NDArray[Any]:
        return self._file.read(self._slots[numbers])


def _runs(slots: Ints) -> Iterator[tuple[int, int]]:
    """Start and end of each run of consecutive slots, which is one read."""
    if len(slots):
        cuts = np.flatnonzero(np.diff(slots) != 1) + 1
        yield from zip([0, *cuts.tolist()], [*cuts.tolist(), len(slots)], strict=True)
