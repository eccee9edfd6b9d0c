"""Thumbnails of a library: made of the pixels that the model's photo is decoded to, and none left behind."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anytag import Library, Tagger
from anytag.images import ImageSource, Photo, load, squares
from anytag.images.thumbnail import thumbnail
from anytag.library import thumbnails
from anytag.library.thumbnails import SIDE
from tests.libraries import CountedRuntime, counted, picture, tick, write_photo
from tests.tiny import make_tiny_model

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "photos"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tagger, CountedRuntime]:
    return counted(make_tiny_model(tmp_path_factory.mktemp("model") / "tiny", size=224))


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with Library.open(tmp_path / "library.db") as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(4):
        write_photo(tmp_path / f"photos/{number}.png", number)
    return tmp_path / "photos"


def kept(library: Library) -> list[Path]:
    folder = Path(f"{library.database.path}.thumbnails")
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_sync_makes_them_of_the_pixels_that_the_model_is_given(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No photo is decoded twice, and tags are those of `Tagger.tag` to the last digit."""
    (tmp_path / "photos").mkdir()
    for name in ("bridge.jpg", "cat.jpg", "officer.jpg"):
        shutil.copy(EXAMPLES / name, tmp_path / "photos")
    mini, decoded = Tagger.load(), list[object]()

    def counting(source: ImageSource, **how: Any) -> Photo:
        decoded.append(source)
        return load(source, **how)

    monkeypatch.setattr(squares, "load", counting)
    library.sync(tmp_path / "photos", tagger=mini)
    assert len(decoded) == 3
    found = {path.stem: path.read_bytes() for path in kept(library)}
    for photo in library.photos():
        ((hash_,),) = library.database.query("SELECT picture FROM photos WHERE id = ?", (photo.id,))
        assert found.pop(hash_.hex()) == thumbnail(load(photo.path, min_side=mini.card.image.size), SIDE)
        tags = mini.tag(photo.path).tags
        assert {tag.id: tag.score for tag in photo.scores} == {tag.id: tag.score for tag in tags}
    assert not found


def test_none_are_made_on_request_and_a_model_of_small_squares_makes_none(
    library: Library, folder: Path, tmp_path: Path, model: tuple[Tagger, CountedRuntime]
) -> None:
    library.sync(folder, tagger=model[0], thumbnails=False)
    assert kept(library) == []
    shutil.copy(EXAMPLES / "bridge.jpg", folder)
    tiny, _ = counted(make_tiny_model(tmp_path / "tiny"))
    assert library.sync(folder, tagger=tiny).tagged == 1
    assert kept(library) == []


def test_photos_of_one_picture_share_theirs_and_keep_it_when_they_move(
    library: Library, folder: Path, model: tuple[Tagger, CountedRuntime]
) -> None:
    library.sync(folder, tagger=model[0])
    before = kept(library)
    assert len(before) == 4
    shutil.copy(folder / "0.png", folder / "copy.png")
    (folder / "1.png").rename(folder / "moved.png")
    library.sync(folder, tagger=model[0])
    assert kept(library) == before
    (folder / "0.png").unlink()
    library.sync(folder, tagger=model[0])
    assert kept(library) == before


def test_pictures_that_nobody_has_any_more_leave_none_behind(
    library: Library, folder: Path, model: tuple[Tagger, CountedRuntime]
) -> None:
    library.sync(folder, tagger=model[0])
    before = kept(library)
    draft = before[0].with_name(f".{before[0].name}.killed.new")
    draft.touch()
    other = before[0].with_name("notes.txt")
    other.touch()
    picture(9).save(folder / "0.png")
    tick(folder / "0.png")
    (folder / "1.png").unlink()
    report = library.sync(folder, tagger=model[0])
    assert (report.tagged, report.gone) == (1, 1)
    assert not draft.exists()
    other.unlink()  # nobody else's files go
    assert len(kept(library)) == 3
    assert len(set(kept(library)) - set(before)) == 1
    assert library.forget(folder / "2.png") == 1
    assert len(kept(library)) == 2
    library.forget(folder)
    assert kept(library) == []


def test_a_disk_that_is_nearly_full_costs_thumbnails_and_no_tags(
    library: Library,
    folder: Path,
    model: tuple[Tagger, CountedRuntime],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(thumbnails, "SPARE", shutil.disk_usage(folder).total)
    assert library.sync(folder, tagger=model[0]).tagged == 4
    assert kept(library) == []


def test_a_folder_that_cannot_be_made_costs_thumbnails_and_no_tags(
    library: Library, folder: Path, model: tuple[Tagger, CountedRuntime]
) -> None:
    Path(f"{library.database.path}.thumbnails").write_bytes(b"in the way")
    assert library.sync(folder, tagger=model[0]).tagged == 4
