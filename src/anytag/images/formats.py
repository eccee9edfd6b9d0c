"""Image formats: suffixes, and detection by the first bytes of a file."""

from __future__ import annotations

from os.path import splitext

from anytag.errors import ImageError
from anytag.suffixes import RAW_SUFFIXES as RAW_SUFFIXES
from anytag.suffixes import SUFFIXES as SUFFIXES

MAX_PIXELS = 178_956_970
"""Default limit against decompression bombs: Pillow's own, a 512 MiB RGB picture."""

FORMATS = ("JPEG", "PNG", "WebP", "TIFF", "BMP", "GIF", "AVIF", "HEIC", "JPEG XL")

SIGNATURE_BYTES = 64
# First bytes of a file -> Pillow plugin. No other parsers are used for untrusted data.
_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG", "JpegImagePlugin"),
    (b"\x89PNG\r\n\x1a\n", "PNG", "PngImagePlugin"),
    (b"GIF87a", "GIF", "GifImagePlugin"),
    (b"GIF89a", "GIF", "GifImagePlugin"),
    (b"II*\0", "TIFF", "TiffImagePlugin"),
    (b"MM\0*", "TIFF", "TiffImagePlugin"),
    (b"II+\0", "TIFF", "TiffImagePlugin"),
    (b"MM\0+", "TIFF", "TiffImagePlugin"),
    (b"BM", "BMP", "BmpImagePlugin"),
    (b"\xff\x0a", "JXL", ""),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JXL", ""),
)
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_RAW_SIGNATURES = (
    (b"FUJIFILMCCD-RAW", "Fujifilm RAF"),
    (b"IIU\0", "Panasonic RW2"),
    (b"IIRO", "Olympus ORF"),
    (b"IIRS", "Olympus ORF"),
    (b"MMOR", "Olympus ORF"),
    (b"II\x1a\0\0\0HEAPCCDR", "Canon CRW"),
    (b"FOVb", "Sigma X3F"),
    (b"\0MRM", "Minolta MRW"),
)


def sniff(head: bytes, name: str) -> tuple[str, str]:
    """Detect the format from the first bytes: (format, Pillow plugin or ""), or ("RAW", camera's format).

    Raises:
        ImageError: the format is unknown.
    """
    for signature, kind, plugin in _SIGNATURES:
        if head.startswith(signature):
            return kind, plugin
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP", "WebPImagePlugin"
    brands = _brands(head)
    if brands & {b"avif", b"avis"}:
        return "AVIF", "AvifImagePlugin"
    if brands & _HEIC_BRANDS:
        return "HEIC", ""
    if camera := _raw(head, brands, name):
        return "RAW", camera
    what = "is empty" if not head else "is not a photo of a known format"
    raise ImageError(f"{name}: {what}; expected one of {', '.join(FORMATS)}")


def webp_size(head: bytes) -> tuple[int, int]:
    """Width and height in the first chunk of a WebP; 0, 0 if unknown."""
    if head[12:16] == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if head[12:16] == b"VP8 ":
        width, height = (int.from_bytes(head[at : at + 2], "little") & 0x3FFF for at in (26, 28))
        return width, height
    return 0, 0


def has_raw_suffix(name: str) -> bool:
    return splitext(name)[1].lower() in RAW_SUFFIXES  # noqa: PTH122  # names of photos need not be paths


def refused_raw(name: str, camera: str = "", why: str = "") -> ImageError:
    """The error for a RAW photo that cannot be read.

    Args:
        name: of the photo.
        camera: its RAW format, if known.
        why: exiftool's error, if it failed to look for a preview.
    """
    kind = f"RAW photo ({camera})" if camera else "RAW photo"
    rest = f", nor its preview ({why})" if why else " and has no preview of useful size that can be"
    return ImageError(f"{name}: is a {kind}, which is not read{rest}; develop it to JPEG or TIFF first")


def _brands(head: bytes) -> set[bytes]:
    """Brands in the `ftyp` box of an ISO media file."""
    if head[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[i : i + 4] for i in range(8, end, 4)}


def _raw(head: bytes, brands: set[bytes], name: str) -> str:
    """The format of a RAW photo that is not a TIFF, or ""."""
    if b"crx " in brands:
        return "Canon CR3"
    for signature, camera in _RAW_SIGNATURES:
        if head.startswith(signature):
            return camera
    return splitext(name)[1][1:].upper() if head and has_raw_suffix(name) else ""  # noqa: PTH122
