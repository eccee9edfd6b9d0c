from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anytag.cli import lists
from anytag.cli.paths import gather
from anytag.walk import OTHERS_FOLDERS


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (
        "b.jpg",
        "a.PNG",
        "note.txt",
        ".hidden.jpg",
        "sub/c.webp",
        "sub/deep/d.heic",
        ".git/e.jpg",
        "empty/x.txt",
    ):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*arguments: str, recursive: bool = False) -> list[str]:
    return [Path(path).as_posix() for path in gather(arguments, recursive=recursive).paths]


@pytest.mark.usefixtures("tree")
class TestPaths:
    def test_a_folder_means_its_photos_sorted(self) -> None:
        assert names("photos") == names("photos/") == ["photos/a.PNG", "photos/b.jpg"]

    def test_recursive_goes_down_but_not_into_hidden_folders(self) -> None:
        below = ["photos/sub/c.webp", "photos/sub/deep/d.heic"]
        assert names("photos", recursive=True) == ["photos/a.PNG", "photos/b.jpg", *below]

    def test_a_named_file_is_taken_as_it_is_typed(self) -> None:
        assert names("photos/note.txt", "./missing.jpg") == ["photos/note.txt", "missing.jpg"]
        assert list(gather(["./photos/../x.jpg"], recursive=False).paths) == ["./photos/../x.jpg"]

    def test_order_is_as_typed(self) -> None:
        assert names("photos/sub", "photos/b.jpg", "photos") == [
            "photos/sub/c.webp",
            "photos/b.jpg",
            "photos/a.PNG",
            "photos/b.jpg",
        ]

    def test_globs_match_photos(self) -> None:
        assert names("photos/*") == ["photos/a.PNG", "photos/b.jpg"]
        assert names("photos/*.jpg") == ["photos/b.jpg"]
        assert names("photos/**/*.webp") == ["photos/sub/c.webp"]
        assert names("photos/s*", recursive=True) == ["photos/sub/c.webp", "photos/sub/deep/d.heic"]

    def test_a_file_named_like_a_glob_is_a_file(self) -> None:
        Path("photos/[b].jpg").touch()
        assert names("photos/[b].jpg") == ["photos/[b].jpg"]

    @pytest.mark.parametrize(
        ("argument", "recursive", "says"),
        [
            ("photos/empty", False, "The folder 'photos/empty' has no photos.$"),
            ("photos/empty", True, "has no photos.$"),
            (".", False, "has no photos. Add --recursive"),
            ("photos/*.tiff", False, "The glob 'photos/.*' matches no photos."),
            ("photos/*.txt", False, "matches no photos"),
            ("photos/s*", False, "matches no photos"),
        ],
    )
    def test_nothing_to_tag_is_wrong_use(self, argument: str, recursive: bool, says: str) -> None:
        with pytest.raises(click.UsageError, match=says):
            gather([argument], recursive=recursive)

    def test_a_loop_of_links_ends(self) -> None:
        Path("photos/sub/loop").symlink_to("..", target_is_directory=True)
        Path("photos/sub/again").symlink_to(".", target_is_directory=True)
        assert len(names("photos", recursive=True)) == 4
        assert names("photos/**/*.jpg") == ["photos/b.jpg"]
        assert names("photos/sub/loop") == ["photos/sub/loop/a.PNG", "photos/sub/loop/b.jpg"]

    def test_globs_of_any_depth(self) -> None:
        every = ["photos/a.PNG", "photos/b.jpg", "photos/sub/c.webp", "photos/sub/deep/d.heic"]
        assert names("photos/**") == names("**/*") == names("photos/**", recursive=True) == every
        assert names("photos/**/deep/*") == names("*/sub/*/d.*") == ["photos/sub/deep/d.heic"]
        assert names("photos/.hid*") == ["photos/.hidden.jpg"]
        assert names(str(Path.cwd() / "photos" / "b*")) == [(Path.cwd() / "photos" / "b.jpg").as_posix()]

    def test_what_cannot_be_read_stops_nothing_else(self, capsys: pytest.CaptureFixture[str]) -> None:
        found = gather(["photos/empty", "photos/*.tiff", "", "no/", "photos"], recursive=False)
        assert list(found.paths) == ["photos/a.PNG", "photos/b.jpg"]
        assert len(found.failures) == 4
        said = capsys.readouterr().err
        assert said.count("Failed: ") == 4
        for part in (
            "'photos/empty' has no photos",
            "matches no photos",
            "empty path",
            "'no/' does not exist",
        ):
            assert part in said
        with pytest.raises(SystemExit) as stopped:
            found.end()
        assert stopped.value.code == 1

    @pytest.mark.parametrize("argument", ["photos", "photos/**/*"])
    def test_a_folder_that_cannot_be_read(self, argument: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """As another user's: also when the tests run as root, who may read all."""
        scandir = os.scandir

        def refuse(path: str) -> Iterator[os.DirEntry[str]]:
            if str(path).endswith("deep"):
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)
        found = gather([argument], recursive=True)
        assert list(found.paths) == ["photos/a.PNG", "photos/b.jpg", "photos/sub/c.webp"]
        assert found.failures == ("The folder 'photos/sub/deep' cannot be read: Permission denied.",)
        with pytest.raises(click.UsageError, match="Permission denied"):
            gather(["photos/sub/deep"], recursive=True)

    def test_a_broken_link_is_passed_on(self) -> None:
        Path("photos/broken.jpg").symlink_to("gone.jpg")
        assert "photos/broken.jpg" in names("photos")
        assert names("photos/br*") == ["photos/broken.jpg"]

    def test_urls_are_passed_on_to_be_refused(self) -> None:
        url = "https://example.com/cat.jpg?size=[1]*"
        assert list(gather([url, "s3://bucket/x.jpg"], recursive=False).paths) == [url, "s3://bucket/x.jpg"]

    @pytest.mark.parametrize("name", [name.replace("*", "My").title() for name in OTHERS_FOLDERS])
    def test_folders_of_other_programs_are_skipped(
        self, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for parent in ("photos", "photos/sub"):
            Path(parent, name).mkdir()
            Path(parent, name, "thumbnail.jpg").touch()
        assert len(names("photos", recursive=True)) == len(names("photos/**")) == 4
        assert "Skipped folders of other programs: 2" in capsys.readouterr().err
        assert names(f"photos/{name}") == [f"photos/{name}/thumbnail.jpg"]  # asked for

    def test_drawings_are_no_photos_unless_they_are_named(self) -> None:
        drawing = "photos/a.jpg.tags.jpg"
        Path(drawing).touch()
        assert drawing not in names("photos", recursive=True) and drawing not in names("photos/*.jpg")
        assert names(drawing) == [drawing]

    def test_raw_files_are_counted_and_said(self, capsys: pytest.CaptureFixture[str]) -> None:
        for name in ("a.CR3", "b.cr3", "sub/c.nef"):
            Path("photos", name).touch()
        assert len(names("photos", recursive=True)) == 4
        assert "Skipped raw files: 2 .cr3, 1 .nef." in capsys.readouterr().err
        assert names("photos/a.CR3") == ["photos/a.CR3"]

    @pytest.mark.parametrize(
        ("globs", "left"),
        [
            (["*.jpg"], ["a.PNG", "sub/c.webp", "sub/deep/d.heic"]),
            (["sub"], ["a.PNG", "b.jpg"]),
            (["sub/"], ["a.PNG", "b.jpg"]),
            (["deep", "a.*"], ["b.jpg", "sub/c.webp"]),
            (["sub/deep"], ["a.PNG", "b.jpg", "sub/c.webp"]),
            (["sub/*"], ["a.PNG", "b.jpg"]),
            (["**/deep"], ["a.PNG", "b.jpg", "sub/c.webp"]),
            (["photos/sub"], ["a.PNG", "b.jpg"]),
            (["nothing", "s", ""], ["a.PNG", "b.jpg", "sub/c.webp", "sub/deep/d.heic"]),
        ],
    )
    def test_exclude(self, globs: list[str], left: list[str]) -> None:
        wanted = [f"photos/{name}" for name in left]
        assert list(gather(["photos"], recursive=True, exclude=globs).paths) == wanted
        every = sorted(names("photos", recursive=True))
        if "sub/*" not in globs:  # below the folder that was named, and none was
            assert list(gather(["photos/**"], recursive=False, exclude=globs).paths) == wanted
        Path("list.txt").write_text("\n".join(every))
        listed = gather([], recursive=False, files_from=[Path("list.txt")], exclude=["*.heic", "*/b.jpg"])
        assert list(listed.paths) == ["photos/a.PNG", "photos/sub/c.webp"]
        assert list(gather([*every, "photos/sub"], recursive=True, exclude=["sub"]).paths) == every[:2]

    def test_nothing_named_is_wrong_use(self) -> None:
        with pytest.raises(click.UsageError, match="Missing argument"):
            gather([], recursive=False)


ODD = ["a.jpg", "ä ö.jpg", "猫/x.png", " b .jpg", "#c.jpg"]


def parts(data: bytes, *, null: bool = False, size: int = 3) -> list[str]:
    return list(lists.paths(iter([data[k : k + size] for k in range(0, len(data), size)]), null=null))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_lists_of_paths_in_every_encoding(encoding: str, end: str, size: int) -> None:
    assert parts((end.join(ODD) + end).encode(encoding), size=size) == ODD
    assert parts((end + end.join(ODD)).encode(encoding), size=size) == ODD if size > 5 else True
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    assert parts((mark + end.join(ODD)).encode(encoding), size=size) == ODD


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_lists_that_end_paths_with_nul(size: int) -> None:
    odd = ["a", "b", "two\nlines.jpg", "return\r", *ODD]
    assert parts("\0".join(odd).encode() + b"\0", null=True, size=size) == odd
    with pytest.raises(click.UsageError, match="add --null"):
        parts(b"photo.jpg\0other.jpg\0", size=size)
    with pytest.raises(click.UsageError, match="invalid UTF-16"):
        parts("\ufeffab".encode("utf-16-le") + b"x", size=size)


def test_names_that_are_no_unicode_are_passed_on() -> None:
    assert parts(b"caf\xe9.jpg\n") == [os.fsdecode(b"caf\xe9.jpg")]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pipe")
def test_a_path_comes_as_soon_as_its_line_ends() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb", buffering=0) as source:
        found = lists.paths(iter(lambda: source.read(1 << 16), b""), null=False)
        for name in ("a", "b.jpg"):
            os.write(writer, f"{name}\n".encode())
            assert next(found) == name  # nothing more is waited for
        os.close(writer)
        assert list(found) == []


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([], None),
        (["dog,cat"], ["dog", "cat"]),
        (["dog, cat,"], ["dog", "cat"]),
        (["dog,,cat"], ["dog", "cat"]),
        (["dog", " red  car "], ["dog", "red  car"]),
        (["dog: a pet; furry"], ["dog: a pet; furry"]),
        (["cat, dog: a pet"], ["cat", "dog: a pet"]),
        (["dog: a pet,"], ["dog: a pet"]),
        (['"tower: tall, with red walls", cat'], ["tower: tall, with red walls", "cat"]),
        (['cat,"a ""big"" dog"'], ["cat", 'a "big" dog']),
        (['5" screen'], ['5" screen']),
    ],
)
def test_tags_between_commas(values: list[str], found: list[str] | None) -> None:
    assert lists.split_commas(values, "--tags", described=True) == found


@pytest.mark.parametrize(
    "value",
    ["tower: tall, with red walls", "dog: a pet, cat: a pet", 'dog, "cat', '"dog" cat', 'a "b, c": d, e'],
)
def test_tags_that_can_be_read_in_two_ways_are_refused(value: str) -> None:
    with pytest.raises(click.UsageError, match="--also"):
        lists.split_commas([value], "--also", described=True)


def test_text_in_a_locale_without_it_is_what_was_typed() -> None:
    typed = "Katze mit Hütchen 猫"
    assert lists.decoded(typed.encode().decode("ascii", "surrogateescape")) == lists.decoded(typed) == typed
    assert lists.decoded("\udce9").isprintable()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_tags_of_a_file(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "tags.txt"
    file.write_bytes("# my tags\r\ndog\r\n\r\n  # more\ntower: tall, red\r#1\nchat noir é".encode(encoding))
    found = lists.tags(file, "--tags-from")
    assert [(one.name, one.descriptions) for one in found] == [
        ("dog", ()), ("tower", ("tall, red",)), ("chat noir é", ()),
    ]  # fmt: skip


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), min_size=1))
def test_quoted_tags_come_back(names_: list[str]) -> None:
    cleaned = [name.strip() for name in names_ if name.strip()]
    value = ",".join(f'"{name.replace(chr(34), chr(34) * 2)}"' for name in cleaned)
    assert (lists.split_commas([value], "--tags") or []) == cleaned


@given(st.text(st.characters(exclude_characters="/\\*?[", exclude_categories=["Cs"]), min_size=1))
def test_any_text_that_is_no_folder_is_passed_on(text: str) -> None:
    if text not in ("-", ".", ".."):
        assert gather([f"nowhere/{text}"], recursive=False).paths == [f"nowhere/{text}"]
