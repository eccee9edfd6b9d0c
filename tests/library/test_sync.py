"""Libraries held against folders: only what changed is looked at, and nothing is given up by mistake."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from anytag import Library, LibraryError, Tagger
from anytag.library import process, schema
from anytag.library.sync import Sync
from anytag.library.vectors import vector_file
from anytag.metadata import ExifTool
from tests.libraries import CountedRuntime, counted, picture, rows, states, tick, write_photo
from tests.tiny import make_tiny_model

Made = tuple[Tagger, CountedRuntime]
needs_links = pytest.mark.skipif(os.name == "nt", reason="links need a right there")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return counted(make_tiny_model(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(6):
        write_photo(tmp_path / f"photos/sub{number % 2}/{number}.jpg", number)
    return tmp_path / "photos"


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with Library.open(tmp_path / "data/library.db") as opened:
        yield opened


def test_a_second_sync_looks_at_nothing_and_writes_nothing(
    library: Library, folder: Path, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = library.sync(folder, tagger=made[0])
    assert (report.photos, report.tagged, report.new) == (6, 6, 6)
    monkeypatch.setattr(process, "_whole", None)  # no photo is opened
    before = library.database.connection.total_changes
    for asked in ([folder], []):  # all folders that the library has
        report = library.sync(*asked, tagger=made[0])
        assert (report.photos, report.unchanged, report.tagged) == (6, 6, 0) and report.is_good
    assert library.database.connection.total_changes == before


def test_tags_and_vectors_are_those_of_the_tagger(library: Library, folder: Path, made: Made) -> None:
    library.sync(folder, tagger=made[0], batch_size=2, workers=3)
    (weights,) = library.database.query("SELECT weights FROM models")[0]
    vectors = vector_file(library.database.path, weights, made[0].card.width)
    for photo in library.photos():
        seen = made[0].encode(photo.path)
        tags = made[0].score(seen)
        assert photo.tags == tags.names and (photo.width, photo.height) == (32, 24)
        assert [tag.score for tag in photo.scores] == pytest.approx([tag.score for tag in tags.tags])
        assert photo.slot is not None
        np.testing.assert_allclose(vectors.read(np.array([photo.slot]))[0], seen.pooled, rtol=1e-5)


def test_moved_renamed_touched_and_chmoded_photos_are_not_tagged_again(
    library: Library, folder: Path, made: Made
) -> None:
    library.sync(folder, tagger=made[0])
    tags = {photo.id: photo.tags for photo in library.photos()}
    made[1].photos = 0
    (folder / "other").mkdir()
    (folder / "sub0/0.jpg").rename(folder / "other/0.jpg")
    (folder / "sub0/2.jpg").rename(folder / "sub0/TWO.JPG")
    (folder / "sub1").rename(folder / "SUB1")
    tick(folder / "SUB1/1.jpg")
    for path in folder.rglob("*.*"):
        path.chmod(0o600)
    report = library.sync(folder, tagger=made[0])
    assert made[1].photos == 0 and report.gone == report.kept == 0
    assert report.moved + report.copied == 5
    assert {photo.name for photo in library.photos()} == {
        "other/0.jpg", "sub0/TWO.JPG", "sub0/4.jpg", "SUB1/1.jpg", "SUB1/3.jpg", "SUB1/5.jpg",
    }  # fmt: skip
    assert {photo.id: photo.tags for photo in library.photos()} == tags  # the same rows


def test_photos_that_change_names_among_themselves_keep_what_the_user_said(
    library: Library, folder: Path, made: Made
) -> None:
    library.sync(folder, tagger=made[0])
    for photo in library.photos():
        library.add(photo.id, f"was {photo.name}")
    names = sorted(photo.name for photo in library.photos())
    for name in names:
        (folder / name).rename(folder / f"{name}.old")
    for name, other in zip(names, names[1:] + names[:1], strict=True):
        (folder / f"{name}.old").rename(folder / other)
    made[1].photos = 0
    assert library.sync(folder, tagger=made[0]).moved == 6
    assert made[1].photos == 0
    for name, other in zip(names, names[1:] + names[:1], strict=True):
        assert library.find(folder / other).added == (f"was {name}",)


def test_a_chain_of_names_moves_along_and_a_new_photo_takes_the_first(
    library: Library, folder: Path, made: Made
) -> None:
    library.sync(folder, tagger=made[0])
    old = {photo.name: photo.id for photo in library.photos()}
    (folder / "sub0/4.jpg").rename(folder / "sub0/6.jpg")
    (folder / "sub0/2.jpg").rename(folder / "sub0/4.jpg")
    write_photo(folder / "sub0/2.jpg", 99)
    report = library.sync(folder, tagger=made[0])
    assert (report.moved, report.new, report.tagged, report.gone) == (2, 1, 1, 0)
    assert library.find(folder / "sub0/6.jpg").id == old["sub0/4.jpg"]
    assert library.find(folder / "sub0/4.jpg").id == old["sub0/2.jpg"]


def test_copies_to_another_disk_are_known_by_their_picture(
    library: Library, folder: Path, made: Made, tmp_path: Path
) -> None:
    library.sync(folder, tagger=made[0])
    first = library.find(folder / "sub0/0.jpg")
    library.reject(first.id, "nonsense")
    shutil.copytree(folder, tmp_path / "disk")
    for path in (tmp_path / "disk").rglob("*.jpg"):
        tick(path)
    made[1].photos = 0
    report = library.sync(tmp_path / "disk", tagger=made[0])
    assert (report.copied, report.tagged, made[1].photos) == (6, 0, 0)
    copy = library.find(tmp_path / "disk/sub0/0.jpg")
    assert (copy.tags, copy.rejected) == (first.tags, ("nonsense",)) and copy.slot != first.slot
    shutil.copy(folder / "sub0/0.jpg", tmp_path / "elsewhere.jpg")
    (folder / "sub0/0.jpg").unlink()
    shutil.copy(tmp_path / "elsewhere.jpg", folder / "moved.jpg")  # another file, of no other name
    report = library.sync(folder, tagger=made[0])
    assert (report.moved, report.copied, report.tagged, report.gone) == (1, 0, 0, 0)


@pytest.mark.parametrize("left", [0, 3])
def test_vectors_that_are_lost_are_made_again(library: Library, folder: Path, made: Made, left: int) -> None:
    """As where the database alone comes back from a backup, or older vectors do."""
    library.sync(folder, tagger=made[0])
    library.reject(folder / "sub0/0.jpg", "nonsense")
    before = rows(library)
    [file] = (library.database.path.parent / "library.db.vectors").iterdir()
    whole = file.read_bytes()
    os.truncate(file, len(whole) * left // 6) if left else shutil.rmtree(file.parent)
    shutil.copy(folder / "sub0/0.jpg", folder / "copy.jpg")  # there is nothing to copy with it
    shutil.copy(folder / "sub1/5.jpg", folder / "another.jpg")
    with Sync(library.database) as sync:
        assert len(list(sync.dry_run())) == 6 - left + 2
    made[1].photos = 0
    report = library.sync(tagger=made[0])
    assert report.is_good and report.tagged == made[1].photos and report.tagged + report.copied == 8 - left
    now = {name: row for name, row in rows(library).items() if name in before}
    assert now == before and library.find(folder / "sub0/0.jpg").rejected == ("nonsense",)
    slots = [photo.slot for photo in library.photos()]
    assert None not in slots and len(set(slots)) == 8
    vectors = vector_file(library.database.path, file.name[:16], made[0].card.width)
    for photo in library.photos():
        vector = vectors.read(np.array([photo.slot]))[0]
        np.testing.assert_allclose(vector, made[0].encode(photo.path).pooled, atol=1e-5)
    assert library.sync(tagger=made[0]).tagged == 0


def test_a_picture_that_changed_is_tagged_again(library: Library, folder: Path, made: Made) -> None:
    library.sync(folder, tagger=made[0])
    write_photo(folder / "sub0/0.jpg", 50)
    report = library.sync(folder, tagger=made[0])
    assert (report.changed, report.tagged) == (1, 1)
    assert library.find(folder / "sub0/0.jpg").tags == made[0].tag(folder / "sub0/0.jpg").names


def test_metadata_written_by_hand_is_no_change(library: Library, folder: Path, made: Made) -> None:
    write_photo(folder / "a.png", 7)
    library.sync(folder, tagger=made[0])
    jpeg = folder / "sub0/0.jpg"
    data = jpeg.read_bytes()
    jpeg.write_bytes(data[:2] + b"\xff\xfe\0\x07hello" + b"\xff\xe1\0\x08http:/" + data[2:])
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", "<x/>")
    with Image.open(folder / "a.png") as opened:
        opened.load()
    opened.save(folder / "a.png", pnginfo=text)
    tick(jpeg)
    tick(folder / "a.png")
    report = library.sync(folder, tagger=made[0])
    assert (report.changed, report.tagged, report.unchanged) == (2, 0, 7)
    assert set(states(library).values()) == {"done"}


def test_a_photo_that_is_turned_by_its_metadata_is_tagged_again(
    library: Library, folder: Path, made: Made
) -> None:
    jpeg = folder / "sub0/0.jpg"
    library.sync(folder, tagger=made[0])
    width, height = library.find(jpeg).width, library.find(jpeg).height
    for orientation in (6, 3):
        exif = Image.Exif()
        exif[274] = orientation
        block = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")
        data = write_photo(jpeg, 0).read_bytes()
        jpeg.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:])
        tick(jpeg)
        shutil.copy2(jpeg, folder / f"turned-{orientation}.jpg")
        report = library.sync(folder, tagger=made[0])
        assert (report.changed, report.tagged, report.copied) in [(1, 1, 1), (1, 2, 0)]
        size = (height, width) if orientation == 6 else (width, height)
        assert (library.find(jpeg).width, library.find(jpeg).height) == size
        assert library.sync(folder, tagger=made[0]).changed == 0
        tick(jpeg)
        assert library.sync(folder, tagger=made[0]).tagged == 0


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool writes the tags")
def test_tags_embedded_by_exiftool_are_no_change(library: Library, folder: Path, made: Made) -> None:
    for suffix in ("png", "webp", "tif", "jpg"):
        write_photo(folder / f"x.{suffix}", 9)
    library.sync(folder, tagger=made[0])
    subprocess.run(
        [
            "exiftool",
            "-q",
            "-r",
            "-overwrite_original",
            "-XMP-dc:Subject=dog",
            "-EXIF:Artist=me",
            str(folder),
        ],
        check=True,
    )
    report = library.sync(folder, tagger=made[0])
    assert (report.changed, report.tagged) == (10, 0)


def test_a_missing_folder_and_an_empty_mount_give_nothing_up(
    library: Library, folder: Path, made: Made
) -> None:
    library.sync(folder, tagger=made[0])
    before = rows(library)
    away = folder.rename(folder.with_name("away"))
    for asked in ([folder], []):
        report = library.sync(*asked, tagger=made[0])
        assert "does not exist" in report.refused and not report.is_good and report.kept == 6
    folder.mkdir()
    report = library.sync(folder, tagger=made[0])
    assert "6 of 6 photos are missing" in report.refused and "--accept-missing" in report.refused
    assert rows(library) == before
    folder.rmdir()
    away.rename(folder)
    made[1].photos = 0
    report = library.sync(folder, tagger=made[0])
    assert report.is_good and report.unchanged == 6 and made[1].photos == 0
    assert rows(library) == before


def test_a_few_that_went_are_gone_and_come_back_as_they_were(
    library: Library, folder: Path, made: Made, tmp_path: Path
) -> None:
    library.sync(folder, tagger=made[0])
    library.reject(folder / "sub0/0.jpg", "dog")
    (folder / "sub0/0.jpg").rename(tmp_path / "0.jpg")
    assert library.sync(folder, tagger=made[0]).gone == 1
    assert len(list(library.photos())) == 5
    assert not library.database.query("SELECT * FROM words WHERE name MATCH '\"sub0/0.jpg\"'")
    made[1].photos = 0
    (tmp_path / "0.jpg").rename(folder / "back.jpg")
    report = library.sync(folder, tagger=made[0])
    assert (report.moved, made[1].photos) == (1, 0)
    assert library.find(folder / "back.jpg").rejected == ("dog",)


def test_most_photos_missing_needs_a_word(library: Library, folder: Path, made: Made) -> None:
    library.sync(folder, tagger=made[0])
    for number in (0, 2, 4, 1):
        (folder / f"sub{number % 2}/{number}.jpg").unlink()
    assert library.sync(folder, tagger=made[0]).refused
    report = library.sync(folder, tagger=made[0], accept_missing=True)
    assert report.gone == 4 and report.is_good
    shutil.rmtree(folder)
    assert library.sync(tagger=made[0], accept_missing=True).gone == 2
    assert library.forget_gone() == 6 and not library.status().folders


def test_another_disk_in_the_same_place_gives_nothing_up(library: Library, folder: Path, made: Made) -> None:
    library.sync(folder, tagger=made[0])
    library.database.connection.execute("UPDATE roots SET device = device + 1")
    library.database.connection.execute("UPDATE photos SET device = device + 1")
    report = library.sync(folder, tagger=made[0])
    assert report.is_good and report.unchanged == 6  # nothing is missing: the number alone is another
    assert library.database.query("SELECT DISTINCT device FROM photos")[0][0] == folder.stat().st_dev
    library.database.connection.execute("UPDATE roots SET device = device + 1")
    (folder / "sub0/0.jpg").unlink()
    assert "is on another disk than before" in library.sync(folder, tagger=made[0]).refused


def test_failures_stay_until_the_file_changes(library: Library, folder: Path, made: Made) -> None:
    good = (folder / "sub0/0.jpg").read_bytes()
    (folder / "empty.jpg").touch()
    (folder / "text.png").write_text("no photo")
    (folder / "cut.jpg").write_bytes(good[: len(good) // 2])
    report = library.sync(folder, tagger=made[0])
    assert (report.tagged, report.failed) == (6, 3) and not report.is_good
    assert "is empty" in str(library.find(folder / "empty.jpg").error)
    report = library.sync(folder, tagger=made[0])
    assert not report.is_good and not report.failures  # not tried again
    assert (report.unchanged, report.failed) == (6, 3)
    (folder / "cut.jpg").write_bytes(good)
    tick(folder / "cut.jpg")
    report = library.sync(folder, tagger=made[0])
    assert (report.copied, report.failed) == (1, 2)
    assert library.find(folder / "cut.jpg").error is None


def test_a_photo_that_breaks_loses_the_tags_of_what_it_was(
    library: Library, folder: Path, made: Made
) -> None:
    library.sync(folder, tagger=made[0])
    (folder / "sub0/0.jpg").write_bytes(b"")
    library.sync(folder, tagger=made[0])
    broken = library.find(folder / "sub0/0.jpg")
    assert (broken.state, broken.tags, broken.slot) == ("failed", (), None)


def test_a_photo_that_cannot_be_read_is_tried_again_and_keeps_its_tags(
    library: Library, folder: Path, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.sync(folder, tagger=made[0])
    tick(folder / "sub0/0.jpg")
    whole = process._whole

    def refused(path: str, row: process.Waiting) -> bytes | None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(process, "_whole", refused)
    for _ in range(2):
        assert library.sync(folder, tagger=made[0]).failed == 1
    assert library.find(folder / "sub0/0.jpg").tags == made[0].tag(folder / "sub0/0.jpg").names
    monkeypatch.setattr(process, "_whole", whole)
    made[1].photos = 0
    assert library.sync(folder, tagger=made[0]).is_good
    assert library.find(folder / "sub0/0.jpg").state == "done" and made[1].photos == 0


def test_a_photo_that_is_being_written_waits(
    library: Library, folder: Path, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (folder / "sub0/0.jpg").read_bytes()
    path = folder / "copy.jpg"
    path.write_bytes(whole[:200])
    is_changed = process._is_changed

    def growing(file: int, row: process.Waiting) -> bool:
        if row.path == os.fsencode(path):
            path.write_bytes(whole)
        return is_changed(file, row)

    monkeypatch.setattr(process, "_is_changed", growing)
    report = library.sync(folder, tagger=made[0])
    assert (report.waits, report.failed, states(library)["copy.jpg"]) == (1, 0, "waiting")
    monkeypatch.setattr(process, "_is_changed", is_changed)
    assert library.sync(folder, tagger=made[0]).waits == 0
    assert states(library)["copy.jpg"] == "done"


def test_a_new_vocabulary_tags_anew_on_request_only(library: Library, folder: Path, made: Made) -> None:
    tagger = made[0]
    library.sync(folder, tagger=tagger)
    photo = next(library.photos())
    library.reject(photo.id, "cat")
    library.add(photo.id, "mine")
    other = tagger.with_vocabulary(tagger.vocabulary.with_thresholds(0.0))
    assert library.sync(folder, tagger=other).tagged == 0
    report = library.sync(folder, tagger=other, retag=True)
    assert report.tagged == 6
    assert library.sync(folder, tagger=other, retag=True).tagged == 0
    again = library.get([photo.id])[0]
    assert {"cat", "mine"} & set(again.tags) == {"mine"}
    assert set(again.tags) == {*(tag.name for tag in tagger.vocabulary), "mine"} - {"cat"}
    assert again.slot == photo.slot or again.slot is not None


def test_a_new_tagging_that_is_stopped_goes_on_and_the_old_tags_stay(
    library: Library, folder: Path, made: Made
) -> None:
    tagger = made[0]
    library.sync(folder, tagger=tagger)
    old = {photo.id: photo.tags for photo in library.photos()}
    other = tagger.with_vocabulary(tagger.vocabulary.with_thresholds(0.0))
    with Sync(library.database, [folder]) as sync:
        sync.scan()
        events = sync.process(lambda: (other, None), retag=True, batch_size=2, workers=1)
        assert sync.total == 6
        next(events)
        events.close()
    changed = [photo for photo in library.photos() if len(photo.tags) == len(tagger.vocabulary)]
    assert len(changed) == 2
    assert all(photo.tags == old[photo.id] for photo in library.photos() if photo not in changed)
    assert library.sync(folder, tagger=other, retag=True).tagged == 4


def test_another_model_has_vectors_of_its_own_and_those_of_the_old_go_with_it(
    library: Library, folder: Path, made: Made, tmp_path: Path
) -> None:
    library.sync(folder, tagger=made[0])
    other, _ = counted(make_tiny_model(tmp_path / "other", width=12, seed=3))
    vectors = library.database.path.with_name("library.db.vectors")
    old = [path.name for path in vectors.iterdir()]
    write_photo(folder / "new.jpg", 70)
    assert library.sync(folder, tagger=other).tagged == 1
    assert len(list(vectors.iterdir())) == 2 and len(library.status().models) == 2
    assert library.sync(folder, tagger=other, retag=True).tagged == 6
    (left,) = (path.name for path in vectors.iterdir())
    assert left not in old and (vectors / left).stat().st_size == 7 * 12 * 4
    assert sorted(photo.slot or 0 for photo in library.photos()) == list(range(7))
    write_photo(folder / "new.jpg", 71)
    assert library.sync(folder, tagger=other).tagged == 1
    assert (vectors / left).stat().st_size == 7 * 12 * 4  # a photo keeps its place


def test_a_backup_of_the_database_alone_finds_the_vectors_of_its_photos(
    library: Library, folder: Path, made: Made, tmp_path: Path
) -> None:
    library.sync(folder, tagger=made[0])
    (weights,) = library.database.query("SELECT weights FROM models")[0]
    vectors = vector_file(library.database.path, weights, made[0].card.width)
    photos = list(library.photos())
    before = vectors.read(np.array([photo.slot for photo in photos]))
    library.database.connection.execute("VACUUM INTO ?", (str(tmp_path / "backup.db"),))
    for photo in photos:
        Path(photo.path).unlink()
    for number in range(80, 90):
        write_photo(folder / f"{number}.jpg", number)
    library.sync(folder, tagger=made[0], accept_missing=True)
    library.forget_gone()
    write_photo(folder / "another.jpg", 90)
    assert library.sync(folder, tagger=made[0]).tagged == 1
    with Library.open(tmp_path / "backup.db") as backup:
        slots = np.array([photo.slot for photo in backup.photos()])
    np.testing.assert_array_equal(vectors.read(slots), before)


@needs_links
def test_a_name_that_differs_in_case_alone_is_a_move_where_the_disk_ignores_case(
    library: Library, folder: Path, made: Made
) -> None:
    library.sync(folder, tagger=made[0])
    (folder / "sub0").rename(folder / "SUB0")
    (folder / "sub0").symlink_to("SUB0")  # the old names still lead to the files, as on such a disk
    report = library.sync(folder, tagger=made[0])
    assert (report.moved, report.tagged, report.gone, len(states(library))) == (3, 0, 0, 6)


def test_a_raw_and_its_jpeg_are_one_photo(library: Library, folder: Path, made: Made) -> None:
    raw = folder / "sub0/0.NEF"
    shutil.copy(folder / "sub0/0.jpg", raw)
    tick(raw)
    report = library.sync(folder, tagger=made[0])
    assert (report.photos, report.tagged) == (6, 6)
    assert library.find(raw).pair == library.find(folder / "sub0/0.jpg").id
    report = library.sync(folder, tagger=made[0])
    assert (report.photos, report.unchanged) == (6, 6)
    (folder / "sub0/0.jpg").unlink()
    report = library.sync(folder, tagger=made[0])
    assert library.find(raw).pair is None and library.find(raw).state == "done" and report.photos == 6


@pytest.mark.parametrize(
    ("first", "second"),
    [("0.jpg", "0.NEF"), ("0.heic", "0.dng"), ("IMG_E1234.jpg", "IMG_1234.heic"), ("0.jpg", "link.jpg")],
)
def test_what_was_said_of_a_photo_follows_whichever_file_stands_for_it(
    library: Library, folder: Path, made: Made, first: str, second: str
) -> None:
    """As it goes, comes back, and goes for good; and undone it is undone of all."""
    one, other = write_photo(folder / first, 70, format="jpeg"), folder / second
    if second == "link.jpg":
        other.hardlink_to(one)
    else:
        write_photo(other, 71, format="jpeg")
    library.sync(folder, tagger=made[0])
    assert library.find(other).pair == library.find(one).id
    library.add(other, "mine")
    library.reject(one, "dog")
    aside = one.rename(folder.parent / one.name)
    library.sync(folder, tagger=made[0])
    alone = library.find(other)
    assert (alone.pair, alone.added, alone.rejected) == (None, ("mine",), ("dog",))
    assert {alone.id} == {photo.id for photo in library.photos() if photo.added}
    if second == "link.jpg":
        return
    library.accept(other, "dog")
    library.add(other, "later")
    library.undo()
    aside.rename(one)
    library.sync(folder, tagger=made[0])
    whole = library.find(one)
    assert library.find(other).pair == whole.id and whole.pair is None
    assert (whole.added, whole.accepted, whole.rejected) == (("mine",), ("dog",), ())
    for _ in range(3):
        library.undo()
    one.unlink()
    library.sync(folder, tagger=made[0])
    found = library.find(other)
    assert (found.pair, found.added, found.accepted, found.rejected) == (None, (), (), ())


def test_what_was_said_of_a_raw_is_said_of_the_jpeg_that_comes(
    library: Library, folder: Path, made: Made
) -> None:
    raw = write_photo(folder / "0.NEF", 70, format="jpeg")
    library.sync(folder, tagger=made[0])
    library.add(raw, "mine")
    jpeg = write_photo(folder / "0.jpg", 71)
    library.sync(folder, tagger=made[0])
    assert library.find(raw).pair == library.find(jpeg).id and library.find(jpeg).added == ("mine",)
    assert library.database.query("SELECT rowid FROM words WHERE words MATCH 'mine'") == [
        (library.find(jpeg).id,)
    ]
    heic = write_photo(folder / "0.heic", 72, format="jpeg")  # a photo of its own, until the JPEG goes
    library.sync(folder, tagger=made[0])
    assert library.find(heic).added == ()
    jpeg.unlink()
    library.sync(folder, tagger=made[0])
    assert library.find(raw).pair == library.find(heic).id and library.find(heic).added == ("mine",)
    assert library.status().decisions == 2  # of the photo, and of the one that has gone


def raf(jpeg: bytes) -> bytes:
    """A RAW file of Fujifilm's as far as its preview."""
    head = b"FUJIFILMCCD-RAW 0201FF129502" + b"FinePix test".ljust(32, b"\0") + b"0100".ljust(24, b"\0")
    return head + struct.pack(">II", 160, len(jpeg)).ljust(160 - len(head), b"\0") + jpeg


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool reads the preview")
def test_a_raw_of_another_kind_is_read_by_its_preview_once_exiftool_is_there(
    library: Library, folder: Path, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(80, size=(800, 600)).save(folder / "x.jpg")
    (folder / "dsc.raf").write_bytes(raf((folder / "x.jpg").read_bytes()))
    (folder / "none.raf").write_bytes(raf(b"no preview"))
    with monkeypatch.context() as without:
        without.setattr("anytag.metadata.exiftool.shared", ExifTool)
        without.setenv("PATH", "")
        assert library.sync(folder, tagger=made[0]).failed == 2
        assert "exiftool is not installed" in str(library.find(folder / "dsc.raf").error)
        assert not library.sync(folder, tagger=made[0]).failures  # not tried again
    report = library.sync(folder, tagger=made[0])
    assert (report.tagged, report.failed) == (1, 1)
    assert (library.find(folder / "dsc.raf").width, library.find(folder / "dsc.raf").state) == (800, "done")
    assert "RAW" in str(library.find(folder / "none.raf").error)
    assert not library.sync(folder, tagger=made[0]).failures


@needs_links
def test_a_link_is_the_photo_that_it_leads_to(
    library: Library, folder: Path, made: Made, tmp_path: Path
) -> None:
    photo = folder / "sub0/0.jpg"
    os.link(photo, folder / "hard.jpg")
    (folder / "soft.jpg").symlink_to("sub0/0.jpg")
    (folder / "out.jpg").symlink_to(write_photo(tmp_path / "outside.jpg", 40))
    (folder / "broken.jpg").symlink_to("nowhere.jpg")
    (folder / "round.jpg").symlink_to("round.jpg")
    (folder / "up").symlink_to(folder)
    report = library.sync(folder, tagger=made[0])
    assert (report.photos, report.new, report.tagged, report.failed) == (9, 9, 7, 2)
    assert "broken link" in str(library.find(folder / "broken.jpg").error)
    shown = [one.id for one in library.photos() if one.state == "done"]
    assert len(shown) == 7
    first, *others = (library.find(path) for path in (photo, folder / "hard.jpg", folder / "soft.jpg"))
    primary = {one.id if one.pair is None else one.pair for one in (first, *others)}
    assert len(primary) == 1
    before = rows(library)
    for _ in range(2):
        report = library.sync(folder, tagger=made[0], follow=True)
        assert (report.photos, report.unchanged, report.failed, report.failures) == (9, 7, 2, {})
    assert rows(library) == before
    photo.unlink()  # the other hard link is the photo now
    made[1].photos = 0
    library.sync(folder, tagger=made[0])
    assert made[1].photos == 0
    assert sum(one.state == "done" for one in library.photos()) == 7


@needs_links
def test_a_link_takes_no_row_from_its_photo(
    library: Library, folder: Path, made: Made, tmp_path: Path
) -> None:
    library.sync(folder, tagger=made[0])
    library.add(folder / "sub0/0.jpg", "mine")
    (folder / "0-first.jpg").symlink_to("sub0/0.jpg")
    (tmp_path / "links").mkdir()
    (tmp_path / "links/far.jpg").symlink_to(folder / "sub0/2.jpg")
    (tmp_path / "same").symlink_to(folder)
    for asked in ([folder], [tmp_path / "links"], [], [tmp_path / "same"], []):
        report = library.sync(*asked, tagger=made[0])
        assert (report.moved, report.tagged, report.copied, report.gone) == (0, 0, 0, 0)
        assert library.find(folder / "sub0/0.jpg").added == ("mine",)
    assert library.find(folder / "0-first.jpg").pair == library.find(folder / "sub0/0.jpg").id
    assert library.find(tmp_path / "links/far.jpg").pair == library.find(folder / "sub0/2.jpg").id


@needs_links
def test_hard_links_of_a_raw_and_its_jpeg_are_one_photo(library: Library, folder: Path, made: Made) -> None:
    write_photo(folder / "a/0.jpg", 40)
    write_photo(folder / "a/0.tiff", 41).rename(folder / "a/0.dng")
    shutil.copytree(folder / "a", folder / "b", copy_function=os.link)
    for _ in range(2):
        library.sync(folder, tagger=made[0])
        first = library.find(folder / "a/0.jpg")
        pairs = {photo.name: photo.pair for photo in library.photos(pairs=True) if photo.name[0] in "ab"}
        assert pairs == {"a/0.jpg": None, "a/0.dng": first.id, "b/0.jpg": first.id, "b/0.dng": first.id}
    library.add(folder / "b/0.dng", "mine")
    assert library.find(folder / "a/0.jpg").added == ("mine",)


@needs_links
def test_a_folder_behind_a_link_is_part_of_the_folder_that_is_synced(
    library: Library, folder: Path, made: Made, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(folder)
    library.sync(link, tagger=made[0])
    for asked in ([folder / "sub0"], [link / "sub0"], [folder], []):
        report = library.sync(*asked, tagger=made[0])
        assert (report.moved, report.new, report.copied) == (0, 0, 0)
    assert [Path(one.path) for one in library.status().folders] == [link]
    with pytest.raises(LibraryError, match="does not exist"):
        library.sync(folder / "sub9")


def test_a_cloned_disk_takes_no_rows(
    library: Library, folder: Path, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files have the inodes, sizes and times of the originals."""
    original, clone = folder / "sub0/0.jpg", tmp_path / "clone/0.jpg"
    library.sync(folder, tagger=made[0])
    library.add(original, "mine")
    clone.parent.mkdir()
    shutil.copy2(original, clone)
    real, inode = os.stat, clone.stat().st_ino
    library.database.connection.execute(
        "UPDATE photos SET inode = ? WHERE path = ?", (inode, os.fsencode(original))
    )

    def stat_of_disks(path: str, **options: bool) -> os.stat_result:
        found = real(path, **options)
        if os.fspath(path) not in (original, str(original), os.fsencode(original)):
            return found

        class Original:
            st_ino, st_dev = inode, found.st_dev + 1
            st_size, st_mtime_ns, st_nlink = found.st_size, found.st_mtime_ns, 1

        return Original()  # type: ignore[return-value]

    monkeypatch.setattr(os, "stat", stat_of_disks)
    report = library.sync(clone.parent, tagger=made[0])
    assert (report.moved, report.copied) == (0, 1)
    assert library.find(original).added == library.find(clone).added == ("mine",)


@needs_links
def test_a_broken_link_with_a_name_of_any_bytes_is_one_failure(
    library: Library, folder: Path, made: Made
) -> None:
    (folder / os.fsdecode(b"bad\xff.jpg")).symlink_to("nowhere")
    for _ in range(2):
        report = library.sync(folder, tagger=made[0])
        assert report.failed == 1
    assert len(states(library)) == 7


def test_a_new_tagging_copies_no_decisions(library: Library, folder: Path, made: Made) -> None:
    shutil.copy(folder / "sub0/0.jpg", folder / "sub1/copy.jpg")
    tagger = made[0]
    library.sync(folder, tagger=tagger)
    library.add(folder / "sub0/0.jpg", "keep")
    library.add(folder / "sub1/copy.jpg", "delete")
    other = tagger.with_vocabulary(tagger.vocabulary.with_thresholds(0.0))
    assert library.sync(folder, tagger=other, retag=True, batch_size=1).copied == 1
    assert library.find(folder / "sub0/0.jpg").added == ("keep",)
    assert library.find(folder / "sub1/copy.jpg").added == ("delete",)


def test_a_name_may_come_and_go_with_other_photos(library: Library, folder: Path, made: Made) -> None:
    path, raw = folder / "sub0/0.jpg", folder / "sub0/0.dng"
    for number in range(3):
        write_photo(path, 90 + number)
        shutil.copy(path, raw)
        tick(raw)
        library.sync(folder, tagger=made[0])
        assert library.find(raw).pair == library.find(path).id
        path.unlink()
        raw.unlink()
        assert library.sync(folder, tagger=made[0]).gone == 2
        path.touch()  # no photo
        library.sync(folder, tagger=made[0])
        assert library.find(path).state == "failed"
        path.unlink()
        library.sync(folder, tagger=made[0])
    assert library.sync(folder, tagger=made[0]).is_good


def test_a_folder_that_was_given_up_is_not_asked_for_again(
    library: Library, folder: Path, made: Made, tmp_path: Path
) -> None:
    write_photo(tmp_path / "other/a.jpg", 20)
    library.sync(folder, tmp_path / "other", tagger=made[0])
    shutil.rmtree(tmp_path / "other")
    assert library.sync(tagger=made[0]).refused
    assert library.sync(tagger=made[0], accept_missing=True).gone == 1
    assert library.sync(tagger=made[0]).is_good


@needs_links
def test_names_of_any_bytes_have_a_row_each(library: Library, tmp_path: Path, made: Made) -> None:
    folder = tmp_path / "photos"
    names = [
        "bête.jpg",
        "be\u0302te.jpg",
        "two\nlines.jpg",
        "-all=.jpg",
        "'; DROP TABLE photos.jpg",
        "x" * 251 + ".jpg",
    ]
    for number, name in enumerate([*names, os.fsdecode(b"caf\xe9.jpg"), os.fsdecode(b"\xff\xfe.jpg")]):
        write_photo(folder / "plain.jpg", number)
        (folder / "plain.jpg").rename(folder / name)
    assert library.sync(folder, tagger=made[0]).tagged == 8
    before = rows(library)
    for _ in range(2):
        report = library.sync(folder, tagger=made[0])
        assert (report.unchanged, report.moved, report.tagged) == (8, 0, 0)
    assert rows(library) == before
    assert sum(photo.name == "bête.jpg" for photo in library.photos()) == 2
    for photo in library.photos():
        assert Path(photo.path).exists()


def test_folders_of_other_programs_and_ignore_files_are_left_out(
    library: Library, folder: Path, made: Made
) -> None:
    others = ["@eaDir", "#recycle", ".@__thumb", ".Trash-1000", "$RECYCLE.BIN", "lost+found", "closed"]
    for name in (*others, "System Volume Information"):
        write_photo(folder / name / "thumb.jpg", 30)
    (folder / "closed/.nomedia").touch()
    write_photo(folder / "._0.jpg", 31)
    write_photo(folder / "film.mp4.jpg", 32).rename(folder / "film.mp4")
    (folder / ".anytagignore").write_text("# mine\nsub1/3.jpg\n")
    report = library.sync(folder, tagger=made[0], exclude=["5.jpg"])
    assert report.tagged == 4
    assert library.sync(folder / "sub1", tagger=made[0], exclude=["5.jpg"]).new == 0  # nor when it is named
    assert sorted(states(library)) == ["sub0/0.jpg", "sub0/2.jpg", "sub0/4.jpg", "sub1/1.jpg"]
    (folder / ".anytagignore").write_text("")  # all of it
    report = library.sync(folder, tagger=made[0])
    assert report.gone == 4 and report.is_good  # the files are there: they are left out, not missing


def test_folders_within_folders_are_one_root(library: Library, folder: Path, made: Made) -> None:
    library.sync(folder / "sub0", tagger=made[0])
    assert library.sync(folder, tagger=made[0]).tagged == 3
    assert [Path(one.path) for one in library.status().folders] == [folder]
    assert "sub0/0.jpg" in states(library)
    write_photo(folder / "sub0/9.jpg", 60)
    write_photo(folder / "sub1/9.jpg", 61)
    assert library.sync(folder / "sub1", tagger=made[0]).tagged == 1
    (folder / "sub0").rename(folder / "sub2")
    assert library.sync(folder, tagger=made[0]).moved == 3


def test_a_folder_that_cannot_be_read_keeps_its_photos(
    library: Library, folder: Path, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.sync(folder, tagger=made[0])
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("sub1"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    report = library.sync(folder, tagger=made[0])
    assert (report.gone, report.kept, report.unchanged) == (0, 0, 3)
    assert "Permission denied" in str(report.failures)
    assert len(list(library.photos())) == 6


def test_nothing_is_written_among_the_photos(library: Library, folder: Path, made: Made) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    for path in [folder, *folder.rglob("*")]:
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222)
    assert library.sync(folder, tagger=made[0]).is_good
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    for path in [folder, *folder.rglob("*")]:
        path.chmod(stat.S_IMODE(path.stat().st_mode) | 0o200)


def test_what_was_never_there_is_an_error(library: Library, tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match="does not exist: correct the name"):
        library.sync(tmp_path / "nowhere")
    with pytest.raises(LibraryError, match="has no folder yet"):
        library.sync()


def test_a_wrong_name_below_a_synced_folder_is_an_error(library: Library, folder: Path, made: Made) -> None:
    library.sync(folder, tagger=made[0])
    with pytest.raises(LibraryError, match="nowhere does not exist"):
        library.sync(folder / "nowhere", tagger=made[0])
    photo = next(path for path in folder.rglob("*") if path.is_file())
    with pytest.raises(LibraryError, match="is a file: name its folder"):
        library.sync(photo, tagger=made[0])


_OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["new", "edit", "remove", "rename", "swap", "copy", "touch", "sync"]),
        st.integers(0, 9),
        st.integers(0, 9),
    ),
    max_size=14,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_OPERATIONS)
def test_whatever_happens_to_files_each_has_its_custom_tags_and_no_picture_is_seen_twice(
    made: Made, tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[str, int, int]]
) -> None:
    """Against the obvious: every file is tagged by itself."""
    place = tmp_path_factory.mktemp("run")
    folder, seen = place / "photos", set[int]()
    folder.mkdir()
    shown: dict[str, int] = {}  # name -> picture
    with Library.open(place / "library.db") as library:
        for number, (what, one, other) in enumerate([("new", 0, 0), *operations, ("sync", 0, 0)]):
            _do(what, f"{one}.png", f"{other}.png", folder, shown, number)
            if what == "sync":
                made[1].photos = 0
                library.sync(folder, tagger=made[0], accept_missing=True)
                assert made[1].photos <= sum(number not in seen for number in shown.values())
                seen |= set(shown.values())
                tags = {photo.name: photo.tags for photo in library.photos()}
                assert tags == {name: made[0].tag(folder / name).names for name in shown}


def _do(what: str, one: str, other: str, folder: Path, shown: dict[str, int], number: int) -> None:
    if what in ("new", "edit") and (what == "new") != (one in shown):
        shown[one] = 1000 + number
        write_photo(folder / one, shown[one])
    elif what == "remove" and one in shown:
        (folder / one).unlink()
        del shown[one]
    elif what == "rename" and one in shown and one != other:
        (folder / one).replace(folder / other)
        shown[other] = shown.pop(one)
    elif what == "swap" and one in shown and other in shown and one != other:
        (folder / one).rename(folder / "x")
        (folder / other).rename(folder / one)
        (folder / "x").rename(folder / other)
        shown[one], shown[other] = shown[other], shown[one]
    elif what == "copy" and one in shown and one != other:
        shutil.copy(folder / one, folder / other)
        tick(folder / other)
        shown[other] = shown[one]
    elif what == "touch" and one in shown:
        tick(folder / one)


def test_photos_of_the_first_version_get_a_hash_when_they_are_seen_again(
    library: Library, folder: Path, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = library.database.path.with_name("old.db")
    with monkeypatch.context() as earlier:
        earlier.setattr(schema, "SCRIPTS", schema.SCRIPTS[:1])
        earlier.setattr(schema, "VERSION", 1)
        Library.open(path).close()
    with Library.open(path) as old:
        old.sync(folder, tagger=made[0])
        hashes = old.database.query("SELECT length(hash), count(*) FROM photos GROUP BY 1")
        assert hashes == [(32, 6)]
        old.database.connection.execute("UPDATE photos SET hash = NULL")
        made[1].photos = 0
        assert old.sync(folder, tagger=made[0]).unchanged == 6 and made[1].photos == 0  # nothing is forced
        write_photo(folder / "sub0/0.jpg", 50)
        old.sync(folder, tagger=made[0])
        assert old.database.query("SELECT name FROM photos WHERE hash IS NOT NULL") == [("sub0/0.jpg",)]
