from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from anytag.library.keywords import tags_of
from anytag.library.library import Library
from anytag.library.photo import STATES, Photo
from anytag.results import TagScore
from anytag.vocabulary import Tag, Vocabulary
from tests import xmp
from tests.command import run

pytestmark = xmp.NEEDS_EXIFTOOL


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    import shutil

    examples = Path(__file__).parents[2] / "examples" / "photos"
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("cat.jpg", "flower.jpg"):
        shutil.copy(examples / name, folder)
    xmp.tag(folder / "cat.jpg", f"-{xmp.IPTC}=Minka", f"-{xmp.TREE}=pets|Minka")
    return folder


def test_a_librarys_tags_are_written_and_taken_back_and_what_is_rejected_stays_out(
    photos: Path, tmp_path: Path
) -> None:
    base = tmp_path / "library.db"
    with Library.open(base) as library:
        library.sync(photos)
        library.reject(photos / "cat.jpg", "tabby")
        library.add(photos / "cat.jpg", "my sofa")
    assert "+my sofa" in run("library", "write", "--database", base, "--dry-run").stdout
    assert not list(photos.glob("*.xmp"))
    assert run("library", "write", "--database", base).exit_code == 0
    found = xmp.one_list(photos / "cat.jpg.xmp", xmp.SUBJECT)
    assert found[:2] == ["Minka", "my sofa"]
    assert "cat" in found
    assert "tabby" not in found
    assert "pets/Minka" in xmp.one_list(photos / "cat.jpg.xmp", xmp.TAGS_LIST)
    before = {path: path.read_bytes() for path in photos.iterdir()}
    assert run("library", "write", "--database", base).stdout == ""
    assert {path: path.read_bytes() for path in photos.iterdir()} == before
    assert "Katze" in run("library", "write", "--database", base, "--language", "de").stdout
    run("library", "write", "--database", base, "--undo")
    assert not list(photos.glob("*.xmp"))


def test_two_tags_of_one_name_are_one_keyword() -> None:
    vocabulary = Vocabulary([Tag("fruit", "fruit", "object"), Tag("orange", "orange", "attribute")])
    scores = tuple(
        TagScore(id_, "orange", score, "vocabulary") for id_, score in (("fruit", 0.9), ("orange", 0.7))
    )
    photo = Photo(1, "/a.jpg", "a.jpg", "done", scores=scores)
    assert tags_of(photo, vocabulary) == [scores[0]]
    sure = tags_of(replace(photo, accepted=("orange",)), vocabulary)
    assert [(tag.id, tag.score) for tag in sure] == [("orange", 1.0)]


def test_keywords_are_read_in_and_what_was_taken_out_of_a_file_is_rejected(
    photos: Path, tmp_path: Path
) -> None:
    base = tmp_path / "library.db"
    with Library.open(base) as library:
        library.sync(photos)
    run("library", "write", "--database", base, photos)
    xmp.tag(
        photos / "cat.jpg.xmp", *(f"-{name}-=cat" for name in xmp.FIELDS), f"-{xmp.TAGS_LIST}-=animal/cat"
    )
    assert "pets|Minka" in run("library", "keywords", "--database", base).stdout
    with Library.open(base) as library:
        photo = library.find(photos / "cat.jpg")
        assert photo.keywords == ("pets|Minka",)
        assert photo.rejected == ("cat",)
        [(count,)] = library.database.query("SELECT count(*) FROM words WHERE words MATCH 'keywords:Minka'")
        assert count == 1


def test_what_is_accepted_after_it_was_taken_out_of_a_file_is_written(photos: Path, tmp_path: Path) -> None:
    base, cat = tmp_path / "library.db", photos / "cat.jpg"
    with Library.open(base) as library:
        library.sync(photos)
    run("library", "write", "--database", base)
    xmp.tag(
        photos / "cat.jpg.xmp", *(f"-{name}-=cat" for name in xmp.FIELDS), f"-{xmp.TAGS_LIST}-=animal/cat"
    )
    run("library", "keywords", "--database", base)
    with Library.open(base) as library:
        assert library.find(cat).rejected == ("cat",)
        library.accept(cat, "cat")
    for _ in range(2):
        run("library", "keywords", "--database", base)
        assert run("library", "write", "--database", base).exit_code == 0
        assert "cat" in xmp.one_list(photos / "cat.jpg.xmp", xmp.SUBJECT)
    with Library.open(base) as library:
        assert (library.find(cat).accepted, library.find(cat).rejected) == (("cat",), ())
        library.reject(cat, "cat")
    run("library", "write", "--database", base)
    assert "cat" not in xmp.one_list(photos / "cat.jpg.xmp", xmp.SUBJECT)


def test_words_of_another_language_are_rejected_and_written_flat(photos: Path, tmp_path: Path) -> None:
    base = tmp_path / "library.db"
    with Library.open(base) as library:
        library.sync(photos)
    german = ("library", "write", "--database", base, "--language", "de")
    assert "+Katze" in run(*german, "--flat", "--dry-run").stdout
    run(*german)
    xmp.tag(photos / "cat.jpg.xmp", f"-{xmp.SUBJECT}-=Katze")
    run("library", "keywords", "--database", base)
    with Library.open(base) as library:
        assert library.find(photos / "cat.jpg").rejected == ("Katze",)
        assert "cat" not in library.find(photos / "cat.jpg").tags


def test_keywords_of_a_raw_are_those_of_its_photo(photos: Path, tmp_path: Path) -> None:
    base = tmp_path / "library.db"
    xmp.photo(photos / "raw.jpg", seed=1)
    (photos / "raw.jpg").rename(photos / "cat.nef")
    xmp.tag(photos / "cat.nef.xmp", f"-{xmp.SUBJECT}=Grandma")
    with Library.open(base) as library:
        library.sync(photos)
    assert "pets|Minka, Grandma" in run("library", "keywords", "--database", base).stdout
    with Library.open(base) as library:
        assert set(library.find(photos / "cat.jpg").keywords) == {"pets|Minka", "Grandma"}


def test_embedding_is_no_change_for_a_library(photos: Path, tmp_path: Path) -> None:
    base = tmp_path / "library.db"
    with Library.open(base) as library:
        library.sync(photos)
        assert run("library", "write", "--database", base, "--embed").exit_code == 0
        report = library.sync(photos)
        assert (report.tagged, report.unchanged) == (0, 2)


def test_undo_reaches_every_photo_that_was_written_for(photos: Path, tmp_path: Path) -> None:
    """Whatever became of it since: broken, being looked at, gone, left out, or behind another."""
    base = tmp_path / "library.db"
    for number, name in enumerate(("broken", "waiting", "gone", "left", "raw")):
        xmp.photo(photos / f"{name}.jpg", seed=number)
    (photos / "raw.jpg").rename(photos / "raw.nef")
    database = ("--database", base)
    with Library.open(base) as library:
        library.sync(photos)
        for photo in library.photos():
            library.add(photo.id, "mine")
        assert run("library", "write", *database, "--flat").exit_code == 0
        assert len(list(photos.glob("*.xmp"))) == 7
        (photos / "broken.jpg").write_bytes(b"")
        (photos / "gone.jpg").unlink()
        xmp.photo(photos / "raw.jpg", seed=9)
        library.sync(photos, exclude=["left.jpg"])
        library.database.connection.execute("UPDATE photos SET state = 'waiting' WHERE name = 'waiting.jpg'")
        states = {photo.name: photo.state for photo in library.photos(states=STATES, pairs=True)}
        assert states["broken.jpg"] == "failed" and states["gone.jpg"] == states["left.jpg"] == "gone"
        assert library.find(photos / "raw.nef").pair is not None
    done = run("library", "write", *database, "--undo")
    assert (done.exit_code, done.stderr) == (0, "")
    assert not list(photos.glob("*.xmp"))
