"""Galleries on disk: added to, cut short, damaged, in use by another process."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anytag import AnytagError, Gallery, ModelError, OutputError
from anytag.gallery import GalleryWriter
from anytag.records import Layout, Layouts, RecordFile

TOKENS, TAGS = Layout("tokens", 4, 3), Layout("tags", 2, 3)


def writer(path: Path, *, model: str = "m", layouts: Layouts | None = None) -> GalleryWriter:
    return GalleryWriter(path, model=model, layouts=layouts or {TOKENS: "w"})


def add(gallery: GalleryWriter, *paths: str, value: float = 1.0) -> None:
    gallery.add(paths, np.full((len(paths), 2, 4), value), np.full((len(paths), 3), value))


def read(path: Path) -> dict[str, float]:
    """Each photo's value; its tokens and its vector must agree."""
    gallery = Gallery.read(path)
    assert (gallery.pooled[:][:, 0] == gallery.tokens[:][:, 0, 0]).all()
    return dict(zip(gallery.paths, gallery.pooled[:][:, 0].tolist(), strict=True))


@pytest.fixture
def photo(tmp_path: Path) -> str:
    path = tmp_path / "a.png"
    path.write_bytes(b"1")
    return str(path)


def test_only_what_is_new_or_changed_is_wanted(tmp_path: Path, photo: str) -> None:
    folder, missing = tmp_path / "g", str(tmp_path / "missing.png")
    with writer(folder) as gallery:
        assert list(gallery.new([photo, photo, missing])) == [photo, missing]
        add(gallery, photo)
        assert list(gallery.new([photo])) == []
    with writer(folder) as gallery:
        assert list(gallery.new([photo])) == []
        os.utime(photo, ns=(0, 1))
        assert list(gallery.new([photo])) == [photo]
        add(gallery, photo, value=2)
        assert len(gallery) == 1
    assert read(folder) == {photo: 2}


def test_one_file_is_one_photo_however_it_is_named(
    tmp_path: Path, photo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with writer(tmp_path / "g") as gallery:
        assert list(gallery.new(["a.png", "./a.png", photo])) == ["a.png"]
        add(gallery, "a.png")
        assert list(gallery.new([photo])) == []
    assert read(tmp_path / "g") == {photo: 1}, "the name that was given last"


def test_names_of_any_bytes(tmp_path: Path) -> None:
    names = [os.fsdecode(b"/\xff.png"), "/a\nb.png", "/\u732b.png", ""]
    with writer(tmp_path / "g") as gallery:
        add(gallery, *names)
        gallery.remove(names[1])
    assert set(read(tmp_path / "g")) == {*names} - {names[1]}


def test_slots_of_photos_that_are_gone_are_used_again(tmp_path: Path) -> None:
    for value in range(5):
        with writer(tmp_path / "g") as gallery:
            add(gallery, "/a", "/b", value=value)
    assert read(tmp_path / "g") == {"/a": 4, "/b": 4}
    assert (tmp_path / "g" / "pooled.f32").stat().st_size == 4 * 3 * 4


def test_two_writers(tmp_path: Path) -> None:
    with writer(tmp_path / "g") as gallery:
        add(gallery, "/a")
        with pytest.raises(OutputError, match="another process"), writer(tmp_path / "g"):
            pass
        with pytest.raises(OutputError, match="another process"):
            Gallery.read(tmp_path / "g").write(tmp_path / "g")
        assert read(tmp_path / "g") == {"/a": 1}, "whoever reads is not kept waiting"


@pytest.mark.parametrize(
    ("model", "layouts"),
    [("n", {TOKENS: "w"}), ("m", {TOKENS: "v"}), ("m", {TOKENS._replace(space=2): "w"}), ("m", {TAGS: "w"})],
)
def test_another_model_is_refused(tmp_path: Path, model: str, layouts: Layouts) -> None:
    with writer(tmp_path / "g") as gallery:
        add(gallery, "/a")
    other = writer(tmp_path / "g", model=model, layouts=layouts)
    with pytest.raises(ModelError, match="the gallery was made with"), other:
        pass
    with writer(tmp_path / "g") as gallery, pytest.raises(ModelError, match="2 tokens a photo"):
        gallery.add(["/b"], np.zeros((1, 5, 4)), np.zeros((1, 3)))


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 400), file=st.sampled_from(["photos.jsonl", "pooled.f32", "tokens.f16"]))
def test_a_gallery_that_is_cut_anywhere_opens_and_is_mended(
    tmp_path_factory: pytest.TempPathFactory, cut: int, file: str
) -> None:
    """As a crash leaves it: what is whole is there, each photo with its own records."""
    folder = tmp_path_factory.mktemp("cut") / "g"
    with writer(folder) as gallery:
        for number in range(4):
            add(gallery, f"/{number}", value=number)
    path = folder / file
    path.write_bytes(path.read_bytes()[:cut])
    assert read(folder).items() <= {f"/{number}": number for number in range(4)}.items()
    with writer(folder) as gallery:
        for number in range(4):
            add(gallery, f"/{number}", value=number)
    assert read(folder) == {f"/{number}": number for number in range(4)}


@given(st.binary(max_size=300))
def test_an_index_of_any_bytes_opens(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    folder = tmp_path_factory.mktemp("any") / "g"
    with writer(folder) as gallery:
        add(gallery, "/a")
    (folder / "photos.jsonl").write_bytes(raw)
    assert read(folder) == {}
    with writer(folder) as gallery:
        add(gallery, "/b", value=3)
    assert read(folder) == {"/b": 3}


def test_a_gallery_keeps_the_layout_that_it_was_made_with(tmp_path: Path) -> None:
    tags = np.array([[[5, 0.9], [-1, -1]]])
    with writer(tmp_path / "new", layouts={TAGS: "t", TOKENS: "w"}) as gallery:
        assert gallery.layout == TAGS
        gallery.add(["/a"], tags, np.ones((1, 3)))
    found = Gallery.read(tmp_path / "new")
    assert (found.layout, found.weights) == (TAGS, "t")
    assert (found.tokens[:] == tags.astype(np.float32)).all()
    found.write(tmp_path / "copy")
    assert Gallery.read(tmp_path / "copy").layout == TAGS
    with writer(tmp_path / "old") as gallery:
        add(gallery, "/a")
    with writer(tmp_path / "old", layouts={TAGS: "t", TOKENS: "w"}) as gallery:
        assert gallery.layout == TOKENS
        add(gallery, "/b")
    assert read(tmp_path / "old") == {"/a": 1, "/b": 1}


def test_what_is_no_gallery_is_named(tmp_path: Path) -> None:
    with writer(tmp_path / "g") as gallery:
        add(gallery, "/a")
    header = tmp_path / "g" / "gallery.json"
    said = json.loads(header.read_text())
    for wrong in ({"format": 2}, {"format": 3}, {"tokens": [0, 4]}, {"tokens": 5}, {"pooled": "x"}):
        header.write_text(json.dumps(said | wrong))
        with pytest.raises(AnytagError, match="is no gallery of this anytag"):
            Gallery.read(tmp_path / "g")
    for path in (tmp_path / "none", tmp_path, header):
        with pytest.raises(AnytagError, match="is no gallery of this anytag"):
            Gallery.read(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot be written"), writer(tmp_path / "g"):
        pass


def test_files_have_the_mode_of_any_new_file(tmp_path: Path) -> None:
    with writer(tmp_path / "g") as gallery:
        add(gallery, "/a")
    mask = os.umask(0)
    os.umask(mask)
    for file in (tmp_path / "g").iterdir():
        assert file.stat().st_mode & 0o777 == 0o666 & ~mask, file


@given(st.lists(st.integers(0, 30), max_size=20))
def test_records_are_read_by_slot(tmp_path_factory: pytest.TempPathFactory, wanted: list[int]) -> None:
    file = RecordFile(tmp_path_factory.mktemp("records") / "r", (2, 2), np.dtype("<f4"))
    assert len(file) == 0
    whole = np.arange(31 * 4, dtype=np.float32).reshape(31, 2, 2)
    order = np.random.default_rng(0).permutation(31)
    file.write(order, whole[order])
    slots = np.array(wanted, np.int64)
    np.testing.assert_array_equal(file.read(slots), whole[slots])
    with pytest.raises(AnytagError, match="cut short"):
        file.read(np.array([31]))


def test_records_are_mapped_as_far_as_they_are_whole(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "v.f32", (3,), np.dtype("<f4"))
    assert file.map().shape == (0, 3)
    vectors = np.arange(12, dtype=np.float32).reshape(4, 3)
    file.write(np.arange(4), vectors)
    with file.path.open("ab") as more:
        more.write(b"torn")
    assert (file.map() == vectors).all()
    with pytest.raises(ValueError, match="read-only"):
        file.map()[0] = 1
