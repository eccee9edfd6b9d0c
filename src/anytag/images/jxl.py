"""Read the size of a JPEG XL file, which is needed before its plugin decodes it."""

from __future__ import annotations

_CODESTREAM = b"\xff\x0a"
_RATIOS = (None, (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # width : height
_LENGTHS = (9, 13, 18, 30)  # bits per side


def jxl_size(data: bytes) -> tuple[int, int]:
    """Width and height as coded (ISO/IEC 18181-1, SizeHeader).

    Raises:
        ValueError: there is no codestream.
    """
    bits = _Bits(_codestream(data)[2:16])
    small = bits.take(1)
    height = 8 * (bits.take(5) + 1) if small else bits.side()
    ratio = _RATIOS[bits.take(3)]
    if ratio is not None:
        return height * ratio[0] // ratio[1], height
    return 8 * (bits.take(5) + 1) if small else bits.side(), height


class _Bits:
    """A bit reader for a little-endian stream."""

    def __init__(self, data: bytes) -> None:
        self._left = int.from_bytes(data, "little")

    def take(self, count: int) -> int:
        value = self._left & ((1 << count) - 1)
        self._left >>= count
        return value

    def side(self) -> int:
        return self.take(_LENGTHS[self.take(2)]) + 1


def _codestream(data: bytes) -> bytes:
    """The first bytes of the codestream, bare or in a container."""
    at = 0
    while not data.startswith(_CODESTREAM, at):
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        start = at + (16 if size == 1 else 8) + (4 if kind == b"jxlp" else 0)
        if kind in (b"jxlc", b"jxlp") and data.startswith(_CODESTREAM, start):
            return data[start : start + 64]
        size = int.from_bytes(data[at + 8 : at + 16], "big") if size == 1 else size
        if size < 8 or at + size >= len(data):
            raise ValueError("it has no codestream")
        at += size
    return data[at : at + 64]
