"""Which files of folders are photos, and which folders are entered."""

from __future__ import annotations

import os
import sys
import unicodedata
from pathlib import Path
from typing import Literal

import pytest

from anytag.walk import Walk, pattern


def make(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def found(walk: Walk, folder: Path) -> list[str]:
    return [Path(path).relative_to(folder).as_posix() for path in walk.photos(str(folder))]


def test_photos_come_sorted_those_of_inner_folders_after(tmp_path: Path) -> None:
    make(
        tmp_path,
        "b.jpg",
        "a/z.png",
        "a/b/y.heic",
        "c.JPG",
        "a.txt",
        ".h.jpg",
        "x.mov",
        "x.jpg.tags.jpg",
        "r.cr3",
    )
    assert found(Walk(), tmp_path) == ["b.jpg", "c.JPG", "a/z.png", "a/b/y.heic"]
    assert found(Walk(recursive=False, takes_raw=True), tmp_path) == ["b.jpg", "c.JPG", "r.cr3"]
    walk = Walk(pattern(["a/b", "c.*"]), top=str(tmp_path))
    assert found(walk, tmp_path) == ["b.jpg", "a/z.png"]
    assert walk.left_out == 1 and len(walk.raw) == 1


@pytest.mark.parametrize(
    ("file", "text", "left"),
    [
        (".nomedia", "", ["top.jpg"]),
        (".anytagignore", "", ["top.jpg"]),
        (".anytagignore", "# a comment\n\nb.jpg\n", ["top.jpg", "in/a.jpg", "in/deep/c.jpg"]),
        (".ppignore", "deep/\n", ["top.jpg", "in/a.jpg", "in/b.jpg"]),
        (".ppignore", "**/c.jpg", ["top.jpg", "in/a.jpg", "in/b.jpg"]),
        (".anytagignore", "/deep/*\n[\n", ["top.jpg", "in/a.jpg", "in/b.jpg"]),
        (".other", "*", ["top.jpg", "in/a.jpg", "in/b.jpg", "in/deep/c.jpg"]),
    ],
)
def test_ignore_files_hold_below_their_folder(tmp_path: Path, file: str, text: str, left: list[str]) -> None:
    make(tmp_path, "top.jpg", "in/a.jpg", "in/b.jpg", "in/deep/c.jpg")
    (tmp_path / "in" / file).write_text(text)
    assert found(Walk(), tmp_path) == left


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_ignore_files_are_read_as_notepads_write_them(tmp_path: Path, encoding: str) -> None:
    make(tmp_path, "a.jpg", "b.jpg", "Käthe/c.jpg")
    (tmp_path / ".anytagignore").write_bytes("Käthe\r\nb.jpg\r\n".encode(encoding))
    assert found(Walk(), tmp_path) == ["a.jpg"]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_globs_find_names_in_either_form_of_their_letters(
    tmp_path: Path, form: Literal["NFC", "NFD"]
) -> None:
    make(tmp_path, "a.jpg", unicodedata.normalize(form, "Käthe/b.jpg"), unicodedata.normalize(form, "ü.jpg"))
    for glob in ("Käthe", "ü*"):
        for typed in (glob, unicodedata.normalize("NFD", glob)):
            assert len(found(Walk(pattern([typed])), tmp_path)) == 2
            (tmp_path / ".anytagignore").write_text(typed, encoding="utf-8")
            assert len(found(Walk(), tmp_path)) == 2
            (tmp_path / ".anytagignore").unlink()


@pytest.mark.skipif(sys.platform != "linux", reason="names are text there")
def test_names_that_are_no_text_are_left_out_by_their_bytes(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", os.fsdecode(b"\xfc.jpg"))
    (tmp_path / ".anytagignore").write_bytes(b"\xfc.jpg")
    assert found(Walk(), tmp_path) == ["a.jpg"]


def test_a_closed_folder_that_is_named_is_entered(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", ".nomedia", "@eaDir/b.jpg")
    assert found(Walk(), tmp_path) == ["a.jpg"]
    assert found(Walk(), tmp_path / "@eaDir") == ["b.jpg"]


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_links_to_folders_are_followed_on_request_and_each_folder_once(tmp_path: Path) -> None:
    make(tmp_path / "photos", "z/a.jpg")
    make(tmp_path / "else", "b.jpg")
    (tmp_path / "photos/a-link").symlink_to(tmp_path / "photos/z")
    (tmp_path / "photos/up").symlink_to(tmp_path / "photos")
    (tmp_path / "photos/out").symlink_to(tmp_path / "else")
    (tmp_path / "else/back").symlink_to(tmp_path / "photos")
    (tmp_path / "photos/round").symlink_to("round")
    assert found(Walk(), tmp_path / "photos") == ["z/a.jpg"]
    assert found(Walk(follow=True), tmp_path / "photos") == ["z/a.jpg", "out/b.jpg"]


def test_folders_that_cannot_be_read_are_told_and_the_others_done(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg")
    told: list[OSError] = []
    walk = Walk(on_error=told.append)
    assert found(walk, tmp_path) == ["a.jpg"] and not told
    assert not list(walk.photos(str(tmp_path / "gone")))
    assert [error.filename for error in told] == [str(tmp_path / "gone")]
