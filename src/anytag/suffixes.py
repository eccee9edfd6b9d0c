"""Suffixes of image files, in lower case with their dot; imports nothing, so that commands start fast."""

from __future__ import annotations

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .webp .tif .tiff .bmp .dib .gif "  # noqa: SIM905
    ".avif .heic .heif .hif .jxl".split()
)
"""Formats that are read; files of a folder with these suffixes are photos."""

RAW_SUFFIXES = frozenset(
    ".dng .nef .nrw .cr2 .cr3 .crw .arw .srf .sr2 .raf .rw2 .rwl .raw .orf .ori .pef .srw .3fr .fff .iiq "  # noqa: SIM905
    ".mos .mef .mrw .erf .kdc .dcr .dcs .x3f .gpr".split()
)
"""RAW formats of cameras. `images.load` reads the embedded preview of some, and reports the others."""

IMAGE_SUFFIXES = SUFFIXES | RAW_SUFFIXES | {".jp2", ".j2k", ".ppm", ".pgm", ".psd", ".psb", ".svg"}
"""All image suffixes, readable or not; text and tables are never written to files with these suffixes."""

DRAWING_SUFFIX = ".tags.jpg"
"""Suffix of drawings of tags, after the name of their photo; these files do not count as photos."""
