from __future__ import annotations

from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anytag.cli.paths import gather


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
    return [Path(path).as_posix() for path in gather(arguments, recursive=recursive)]


@pytest.mark.usefixtures("tree")
class TestPaths:
    def test_a_folder_means_its_photos_sorted(self) -> None:
        assert names("photos") == names("photos/") == ["photos/a.PNG", "photos/b.jpg"]

    def test_recursive_goes_down_but_not_into_hidden_folders(self) -> None:
        below = ["photos/sub/c.webp", "photos/sub/deep/d.heic"]
        assert names("photos", recursive=True) == ["photos/a.PNG", "photos/b.jpg", *below]

    def test_a_named_file_is_taken_as_it_is_typed(self) -> None:
        assert names("photos/note.txt", "./missing.jpg") == ["photos/note.txt", "missing.jpg"]
        assert list(gather(["./photos/../x.jpg"], recursive=False)) == ["./photos/../x.jpg"]

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
        assert len(names("photos", recursive=True)) == 4


@given(st.text(st.characters(exclude_characters="/*?[", exclude_categories=["Cs"]), min_size=1))
def test_any_text_that_is_no_folder_is_passed_on(text: str) -> None:
    if text not in ("-", ".", ".."):
        assert gather([f"nowhere/{text}"], recursive=False) == [f"nowhere/{text}"]
