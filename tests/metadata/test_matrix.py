"""Formats × metadata that is there: nothing of the user is lost, for any reader, and undo is exact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anytag import images
from anytag.metadata import read_keywords, undo, write_keywords
from tests import xmp

pytestmark = xmp.NEEDS_EXIFTOOL

OURS = (("animal", "dog"), "24/7", "測試")
LEAVES = ["dog", "24/7", "測試"]

Setting = Callable[[Path], Path]


def dng_like(path: Path) -> Path:
    """A TIFF that says it is a DNG, and is named so."""
    xmp.photo(path.with_suffix(".tif")).rename(path)
    return xmp.tag(path, "-n", "-IFD0:DNGVersion=1 4 0 0", "-IFD0:UniqueCameraModel=test")


def listed(name: str, *words: str) -> list[str]:
    return [f"-{name}={word}" for word in words]


def empty_item(path: Path) -> Path:
    """`<rdf:li/>` among words, as some programs leave it."""
    xmp.tag(path, *listed(xmp.SUBJECT, "EMPTYEMPTY", "mine"))
    packet = xmp.exiftool("-b", "-XMP", path).replace("EMPTYEMPTY", "").replace("rdf:Bag", "rdf:Seq")
    sidecar = path.with_name("packet.xmp")
    sidecar.write_text(packet)
    xmp.tag(path, f"-XMP<={sidecar}")
    sidecar.unlink()
    return path


def iptc(*words: str, unmarked: bool = False, marked: bool = False) -> Setting:
    charset = ["-IPTC:CodedCharacterSet=UTF8"] * marked + ["-charset", "iptc=utf8"] * unmarked
    return lambda path: xmp.tag(path, *charset, *listed(xmp.IPTC, *words), "-IPTC:City=Köln")


def lists_of(**words: str) -> Setting:
    """Words between spaces, by the names of `FIELD`."""
    arguments = [one for name, text in words.items() for one in listed(FIELD[name], *text.split())]
    return lambda path: xmp.tag(path, *arguments)


FIELD = {"iptc": xmp.IPTC, "subject": xmp.SUBJECT, "tree": xmp.TREE, "tags": xmp.TAGS_LIST}
THERE: dict[str, tuple[Setting, set[str]]] = {
    "nothing": (lambda path: path, set()),
    "IPTC in Latin-1": (iptc("München", "mine"), {"München", "mine"}),
    "IPTC in UTF-8": (iptc("東京", "mine", marked=True), {"東京", "mine"}),
    "IPTC in UTF-8 that does not say so": (iptc("dänemark", unmarked=True), {"dänemark"}),
    "a bag": (lists_of(subject="mine other"), {"mine", "other"}),
    "a tree only": (lists_of(tree="a|mine b"), {"mine", "b"}),
    "TagsList only": (lists_of(tags="a/mine b"), {"mine", "b"}),
    "all": (
        lists_of(iptc="one", subject="two", tree="x|three", tags="y/four"),
        {"one", "two", "three", "four"},
    ),
    "an empty item in a Seq": (empty_item, {"mine"}),
}
FORMATS = (".jpg", ".tif", ".png", ".webp", ".heic", ".dng")
HAS_IPTC = (".jpg", ".tif", ".png", ".dng")  # into the others exiftool writes none: there is none to keep
MATRIX = [(suffix, there) for suffix in FORMATS for there in THERE
          if suffix in HAS_IPTC or not there.startswith(("IPTC", "all"))]  # fmt: skip


def made(folder: Path, suffix: str, there: str) -> tuple[Path, set[str]]:
    path = folder / f"photo{suffix}"
    path = dng_like(path) if suffix == ".dng" else xmp.photo(path)
    setting, words = THERE[there]
    return setting(path), words


def pixels(path: Path) -> bytes:
    return np.asarray(images.load(path).picture if path.suffix != ".dng" else Image.open(path)).tobytes()


@pytest.mark.parametrize(("suffix", "there"), MATRIX)
def test_every_field_of_the_sidecar_holds_the_union(tmp_path: Path, suffix: str, there: str) -> None:
    photo, mine = made(tmp_path, suffix, there)
    before = photo.read_bytes()
    change = write_keywords(photo, OURS)
    sidecar = tmp_path / f"photo{suffix}.xmp"
    assert change.files == (str(sidecar),)
    found = xmp.lists(sidecar)
    assert set(found[xmp.SUBJECT]) == {*mine, *LEAVES}
    assert {word.split("/")[-1] for word in found[xmp.TAGS_LIST]} == {*mine, "dog", "24|7", "測試"}
    assert {word.split("|")[-1] for word in found[xmp.TREE]} == {*mine, *LEAVES}
    assert {word.split("/")[-1] for word in xmp.immich(photo, [sidecar])} >= mine
    assert xmp.photoprism(photo, [sidecar]) >= mine
    written = sidecar.read_bytes()
    assert write_keywords(photo, OURS).files == ()
    assert (photo.read_bytes(), sidecar.read_bytes()) == (before, written)
    undo(photo)
    assert [path.name for path in tmp_path.iterdir()] == [photo.name]


@pytest.mark.parametrize(("suffix", "there"), MATRIX)
def test_every_field_of_the_photo_holds_the_union(tmp_path: Path, suffix: str, there: str) -> None:
    photo, mine = made(tmp_path, suffix, there)
    before, shown = xmp.lists(photo), pixels(photo)
    assert write_keywords(photo, OURS, embed=True).files == (str(photo),)
    found = xmp.lists(photo)
    assert set(found[xmp.SUBJECT]) == {*mine, *LEAVES}
    assert {word.split("/")[-1] for word in found[xmp.TAGS_LIST]} == {*mine, "dog", "24|7", "測試"}
    assert {word.split("|")[-1] for word in found[xmp.TREE]} == {*mine, *LEAVES}
    assert set(found.get(xmp.IPTC, ())) == ({*mine, *LEAVES} if xmp.IPTC in before else set())
    assert found.get("IPTC:City", ["Köln"]) == ["Köln"]
    assert {word.split("/")[-1] for word in xmp.immich(photo, [])} >= mine
    assert xmp.photoprism(photo, []) >= mine
    assert pixels(photo) == shown
    written = photo.read_bytes()
    assert write_keywords(photo, OURS, embed=True).files == ()
    assert photo.read_bytes() == written
    undo(photo)
    after = xmp.lists(photo)
    if "does not say" in there:
        before[xmp.IPTC] = [*mine]  # before, exiftool read it as Latin-1
    for name in (*xmp.FIELDS, xmp.IPTC):
        assert after.get(name, []) == [word for word in before.get(name, []) if word], name
    assert pixels(photo) == shown


WORDS = [
    *("2019", "2019.10", "true", "false", "007", "1e3", "-5", "a,b", "a;b", "a|b", "a/b", "AT&T", "<x>"),
    *("ka\u0308se", "測試", "🐕", "שלום", "x" * 200, "-all=", "f2.8", "Johnson, Seward", '"quoted"', "$HOME"),
    *("@x", "#x", "a=b", "[CSTR]", "&amp;", "%d", "\\n", "null"),
]


@pytest.mark.parametrize("embed", [False, True])
def test_words_are_written_letter_by_letter(tmp_path: Path, embed: bool) -> None:
    photo = xmp.tag(xmp.photo(tmp_path / "a.jpg"), "-IPTC:Keywords=München")
    write_keywords(photo, WORDS, embed=embed)
    file = photo if embed else tmp_path / "a.jpg.xmp"
    assert xmp.one_list(file, xmp.SUBJECT) == ["München", *WORDS]
    assert [found.keywords for found in read_keywords([photo])] == [(("München",),)]


def test_the_users_words_are_read_letter_by_letter(tmp_path: Path) -> None:
    photo = xmp.tag(xmp.photo(tmp_path / "a.jpg"), *listed(xmp.SUBJECT, *WORDS))
    assert [found.keywords for found in read_keywords([photo])] == [tuple((word,) for word in WORDS)]
    write_keywords(photo, ["dog"])
    assert xmp.one_list(tmp_path / "a.jpg.xmp", xmp.SUBJECT) == [*WORDS, "dog"]


def test_undo_removes_what_exiftool_adds_to_iptc(tmp_path: Path) -> None:
    """To a block with a charset it adds a version, which other programs leave out."""
    photo = iptc("東京", marked=True)(xmp.photo(tmp_path / "photo.jpg"))
    before = xmp.tag(photo, "-IPTC:EnvelopeRecordVersion=").read_bytes()
    for words in (OURS, OURS[:1]):
        write_keywords(photo, words, embed=True)
    assert "IPTC:EnvelopeRecordVersion" in xmp.lists(photo)
    undo(photo)
    assert photo.read_bytes() == before
