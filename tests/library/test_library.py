"""What users say of photos: it is kept, found, taken back, and comes out as labels."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from anytag import Library, LibraryError
from anytag.data.rows import row_of
from anytag.library import words
from anytag.vocabulary import Vocabulary
from tests.libraries import counted, write_photo
from tests.tiny import make_tiny_model

needs_links = pytest.mark.skipif(os.name == "nt", reason="links need a right there")


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    tagger, _ = counted(make_tiny_model(tmp_path / "tiny"))
    tagger = tagger.with_vocabulary(tagger.vocabulary.with_thresholds(0.0))
    for number in range(3):
        write_photo(tmp_path / f"photos/{number}.jpg", number)
    with Library.open(tmp_path / "library.db") as opened:
        opened.sync(tmp_path / "photos", tagger=tagger)
        yield opened


def found(library: Library, text: str) -> list[int]:
    return [
        row[0]
        for row in library.database.query(
            "SELECT rowid FROM words WHERE words MATCH ? ORDER BY rowid", (text,)
        )
    ]


def test_what_the_user_says_counts_and_is_found(library: Library, tmp_path: Path) -> None:
    photo = tmp_path / "photos/0.jpg"
    assert found(library, "dog") == [1, 2, 3]
    library.reject(photo, "Dog", "ice cream")
    library.accept(photo, "cat")
    library.add(1, "Großmutter", "  Tom & Jerry ")
    one = library.find(photo)
    assert "dog" not in one.tags and "ice cream" not in one.tags
    assert one.tags[:3] == ("Großmutter", "Tom & Jerry", "cat")
    assert (one.accepted, one.rejected) == (("cat",), ("Dog", "ice cream"))
    assert found(library, "dog") == [2, 3] and found(library, "grossmutter") == []
    assert found(library, "GROßMUTTER") == found(library, "jerry") == [1]


def test_the_last_word_counts_and_is_taken_back_one_by_one(library: Library) -> None:
    before = library.find(1)
    library.reject(1, "dog")
    library.accept(1, "dog")
    assert library.find(1).accepted == ("dog",) and library.find(1).rejected == ()
    (photo,) = library.undo()
    assert photo.rejected == ("dog",) and found(library, "dog") == [2, 3]
    library.undo()
    assert library.find(1) == before and library.undo() == []


def test_what_is_said_of_many_photos_is_taken_back_as_one(library: Library) -> None:
    before = library.get([1, 2, 3])
    library.decide([1, 2, 3], ["holiday", "dog"], "added")
    assert all(set(photo.added) == {"holiday", "dog"} for photo in library.get([1, 2, 3]))
    assert sorted(photo.id for photo in library.undo()) == [1, 2, 3]
    assert library.get([1, 2, 3]) == before
    with pytest.raises(LibraryError):
        library.decide([1, 99], ["holiday"], "added")
    assert library.get([1]) == before[:1]


@pytest.mark.parametrize("tag", ["", "  ", None, 3, "\udcff", "caf\udce9", "\x07"])
def test_what_is_no_tag_is_refused(library: Library, tag: object) -> None:
    with pytest.raises(LibraryError, match="is not a tag"):
        library.add(1, "good", tag)  # type: ignore[arg-type]
    assert library.find(1).added == ()


def test_a_tag_is_one_line(library: Library) -> None:
    library.add(1, "my\ncat\x1b", "👩\u200d🌾")
    assert library.find(1).added == ("my cat", "👩\u200d🌾")


def test_a_tag_is_rejected_and_accepted_by_any_of_its_names(library: Library) -> None:
    assert "cat" in library.find(1).tags
    library.reject(1, "Katze")
    assert "cat" not in library.find(1).tags and found(library, "cat") == [2, 3]
    library.accept(1, "kitty")  # the same tag, so the last word counts
    assert (library.find(1).accepted, library.find(1).rejected) == (("cat",), ())
    library.add(2, "Katze")  # a word of the user's own, as he spells it
    assert library.find(2).added == ("Katze",) and "cat" in library.find(2).tags
    library.reject(3, "Katze")
    assert [row["absent"] for row in library.labels()] == [[], [], ["Katze"]]


@needs_links
def test_what_is_said_of_a_link_is_said_of_its_photo(library: Library, tmp_path: Path) -> None:
    tagger = make_tiny_model(tmp_path / "other")
    (tmp_path / "photos/link.jpg").symlink_to(tmp_path / "photos/0.jpg")
    library.sync(tagger=counted(tagger)[0])
    library.add(tmp_path / "photos/link.jpg", "mine")
    assert library.find(tmp_path / "photos/0.jpg").added == ("mine",)


@needs_links
def test_where_a_photo_is_forgotten_what_it_stood_for_is_a_photo_of_its_own(
    library: Library, tmp_path: Path
) -> None:
    tagger, count = counted(make_tiny_model(tmp_path / "other"))
    (tmp_path / "photos/link.jpg").symlink_to(tmp_path / "photos/0.jpg")
    library.sync(tagger=tagger)
    library.forget(tmp_path / "photos/0.jpg")
    assert [photo.name for photo in library.photos(states=["waiting"])] == ["link.jpg"]
    library.sync(tagger=tagger, exclude=["0.jpg"])
    assert [photo.name for photo in library.photos(states=["done"])] == ["1.jpg", "2.jpg", "link.jpg"]
    assert count.photos == 1


def test_a_photo_that_is_not_there_is_an_error(library: Library, tmp_path: Path) -> None:
    for photo in (99, tmp_path / "photos/9.jpg"):
        with pytest.raises(LibraryError, match="is not in the library"):
            library.reject(photo, "dog")
    with pytest.raises(LibraryError, match="is a folder: name one of its photos"):
        library.reject(tmp_path / "photos", "dog")
    with pytest.raises(LibraryError, match="has no photos at"):
        library.forget(tmp_path / "elsewhere")


def test_words_of_people_are_those_that_they_added_and_steps_of_keywords(library: Library) -> None:
    first, second, _ = library.photos()
    assert library.words() == []
    library.add(first.id, "a | b", "Tom")
    library.add(second.id, "Tom")
    library.reject(second.id, "no")
    with library.database.transaction() as connection:
        connection.execute("INSERT INTO keywords VALUES (?, 'people|Tom', 'test')", (first.id,))
    assert library.words() == ["Tom", "a | b", "people"]
    library.undo()
    assert library.words() == ["Tom", "a | b", "people"]


def test_labels_are_what_people_said_in_the_form_of_training_data(library: Library, tmp_path: Path) -> None:
    vocabulary = Vocabulary.read(tmp_path / "tiny/vocabulary.jsonl")
    library.accept(1, "cat")
    library.add(1, "mine")
    library.reject(1, "dog")
    with library.database.transaction() as connection:
        connection.executemany(
            "INSERT INTO keywords VALUES (?, ?, 'dc:subject')",
            [(1, "animal|dog"), (2, "place|sea shore"), (2, "Rome"), (3, "Paris")],
        )
        words.rewrite(connection, [1, 2, 3])
    rows = list(library.labels(vocabulary))
    assert [(row["tags"], row["absent"]) for row in rows] == [(["cat", "mine"], ["dog"]), (["beach"], [])]
    assert [row_of(json.loads(json.dumps(row))).image for row in rows] == [
        str(tmp_path / f"photos/{n}.jpg") for n in (0, 1)
    ]
    assert found(library, "rome") == [2]


def test_photos_of_a_folder_in_order_and_by_state(library: Library, tmp_path: Path) -> None:
    assert [photo.name for photo in library.photos(tmp_path / "photos")] == ["0.jpg", "1.jpg", "2.jpg"]
    assert not list(library.photos(states=["failed"]))
    with pytest.raises(LibraryError, match="photo does not exist"):
        library.photos(tmp_path / "photo")
    row = next(library.photos()).to_dict()
    assert json.loads(json.dumps(row)) == row and row["scores"][0]["score"] > 0


def test_forgetting_loses_rows_and_words_and_no_file(library: Library, tmp_path: Path) -> None:
    library.add(1, "mine")
    assert library.decided(tmp_path / "photos") == 1
    assert library.forget(tmp_path / "photos/0.jpg", tmp_path / "photos/0.jpg") == 1
    assert found(library, "mine") == [] and len(list(library.photos())) == 2
    assert library.forget(tmp_path / "photos") == 2 and not library.status().folders
    assert len(list((tmp_path / "photos").iterdir())) == 3


def test_forgetting_leaves_folders_without_photos_that_were_not_named(
    library: Library, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    library.sync(tmp_path / "empty")
    library.forget(tmp_path / "photos/0.jpg")
    library.forget_gone()
    assert [Path(folder.path).name for folder in library.status().folders] == ["empty", "photos"]
    library.forget(tmp_path / "empty")
    assert [Path(folder.path).name for folder in library.status().folders] == ["photos"]


def test_photos_that_have_gone_are_counted_where_the_user_said_something(
    library: Library, tmp_path: Path
) -> None:
    library.add(1, "mine")
    (tmp_path / "photos/0.jpg").unlink()
    library.sync()
    assert library.decided() == 1 and library.forget_gone() == 1
