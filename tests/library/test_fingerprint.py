"""A picture is known by its data, whatever is written beside it."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from anytag.library.fingerprint import fingerprint
from tests.libraries import picture

TAKEN = "2019:06:01 12:30:45"
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpg": ("JPEG", {}),
    "progressive.jpg": ("JPEG", {"progressive": True}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {}),
    "lossless.webp": ("WEBP", {"lossless": True}),
    "tif": ("TIFF", {}),
    "heic": ("HEIF", {}),
    "avif": ("AVIF", {}),
}


def photo(kind: str, number: int = 1, *, taken: str | None = None) -> bytes:
    """A photo in a format, or a skipped test where nothing writes it."""
    format_, options = FORMATS[kind]
    if format_ == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    if format_ == "AVIF" and ".avif" not in Image.registered_extensions():
        pytest.skip("Pillow was built without AVIF")
    exif = Image.Exif()
    if taken:
        exif.get_ifd(0x8769)[36867] = taken
        options = {**options, "exif": exif.tobytes()}
    file = io.BytesIO()
    picture(number, size=(64, 48)).save(file, format_, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
def test_exif_is_no_part_of_the_picture_and_tells_when_it_was_taken(kind: str) -> None:
    plain, dated = fingerprint(photo(kind)), fingerprint(photo(kind, taken=TAKEN))
    assert plain.picture == dated.picture or kind == "lossless.webp"
    assert (plain.taken, dated.taken) == (None, "2019-06-01T12:30:45")


@pytest.mark.parametrize("kind", FORMATS)
def test_another_picture_has_another_fingerprint(kind: str) -> None:
    assert fingerprint(photo(kind, 1)).picture != fingerprint(photo(kind, 2)).picture


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool writes the tags")
@pytest.mark.parametrize("kind", FORMATS)
def test_what_exiftool_writes_changes_no_fingerprint(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"photo.{kind}"
    path.write_bytes(photo(kind))
    before = fingerprint(path.read_bytes()).picture
    for tags in (
        ["-XMP-dc:Subject=dog", "-XMP-dc:Description=" + "long " * 999],
        ["-EXIF:Artist=me", "-XMP:all="],
    ):
        subprocess.run(["exiftool", "-q", "-overwrite_original", *tags, str(path)], check=True)
        assert fingerprint(path.read_bytes()).picture == before


@pytest.mark.parametrize("date", ["0000:00:00 00:00:00", "yesterday", "2019", ""])
def test_a_date_that_is_none_is_none(date: str) -> None:
    assert fingerprint(photo("jpg", taken=date or None)).taken is None


@given(st.sampled_from(["jpg", "png", "webp", "tif"]), st.data())
def test_damaged_files_have_a_fingerprint_too(kind: str, data: st.DataObject) -> None:
    good = photo(kind)
    cut = data.draw(st.integers(0, len(good)))
    place, byte = data.draw(st.integers(0, len(good) - 1)), data.draw(st.binary(min_size=1, max_size=4))
    for bad in (good[:cut], good[:place] + byte + good[place + len(byte) :], byte):
        assert len(fingerprint(bad).picture) == 16
