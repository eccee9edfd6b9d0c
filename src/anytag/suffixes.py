"""Suffixes of image files, in lower case with their dot: the one list, which costs nothing to import."""

from __future__ import annotations

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .webp .tif .tiff .bmp .dib .gif "  # noqa: SIM905
    ".avif .heic .heif .hif .jxl".split()
)
"""Of the formats that are read: which files of a folder are photos."""

RAW_SUFFIXES = frozenset(
    ".dng .nef .nrw .cr2 .cr3 .crw .arw .srf .sr2 .raf .rw2 .rwl .raw .orf .ori .pef .srw .3fr .fff .iiq "  # noqa: SIM905
    ".mos .mef .mrw .erf .kdc .dcr .dcs .x3f .gpr".split()
)
"""Of cameras' RAW files. `images.load` reads the embedded preview of some, and refuses others by name."""

IMAGE_SUFFIXES = SUFFIXES | RAW_SUFFIXES | {".jp2", ".j2k", ".ppm", ".pgm", ".psd", ".psb", ".svg"}
"""Of images, whether they are read or not: no text or table is ever written to such a file."""

DRAWING_SUFFIX = ".tags.jpg"
"""Of drawings of tags, after the name of their photo: no photos of a folder or a glob."""
