"""`annotation_store` and `shuffle`: annotations are read once; permutations are never stored."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anytag.data.labels import Labeler
from anytag.data.rows import Row, read_rows
from anytag.errors import AnytagError
from anytag.torch.training import annotation_store
from anytag.torch.training.annotation_store import Annotations, label_row
from anytag.torch.training.photo_dataset import PhotoDataset, Photos
from anytag.torch.training.shuffle import shuffled
from anytag.torch.training.texts import vocabulary_of
from anytag.vocabulary import Tag, Vocabulary
from tests.runs import Kept, write_photos


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANYTAG_HOME", str(tmp_path / "home"))
    return write_photos(tmp_path / "photos")


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 5000), st.integers(0, 2**31))
def test_an_order_has_every_photo_once(count: int, seed: int) -> None:
    found = shuffled(np.arange(count), count, seed=(seed, 3))
    assert sorted(found.tolist()) == list(range(count))
    assert shuffled(np.array([count // 2]), count, seed=(seed, 3)).item() == found[count // 2]


def test_orders_are_as_random_as_draws() -> None:
    places = np.zeros((12, 12))
    for seed in range(3000):
        places[np.arange(12), shuffled(np.arange(12), 12, seed=(seed,))] += 1
    assert ((places - 250) ** 2 / 250).sum() < 185  # chi square, 121 degrees of freedom: one in 10,000


def test_any_number_of_ranks_reads_the_same_photos(data: Path) -> None:
    photos = Photos(read_rows(data), data.parent, vocabulary_of(read_rows(data)))

    def keys(rank: int, world: int, step: int) -> list[tuple[int, int]]:
        corpus = PhotoDataset(photos, size=16, batch_size=4, seed=7, rank=rank, world=world)
        return corpus.keys(step)

    for step in range(7):
        whole = keys(0, 1, step)
        assert sorted(chain(keys(0, 2, step), keys(1, 2, step))) == sorted(whole)
        assert keys(1, 4, step) == whole[1:2]
    epoch = [number for step in range(3) for _, number in keys(0, 1, step)]
    assert sorted(epoch) == list(range(12))
    assert epoch != [number for step in range(3, 6) for _, number in keys(0, 1, step)]


def test_what_is_stored_is_what_is_read(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = read_rows(data)
    vocabulary = vocabulary_of(rows)
    monkeypatch.setattr(annotation_store, "_CHUNK", 5)
    for workers in (1, 2):
        monkeypatch.setattr(annotation_store, "_PARALLEL", 10 if workers == 2 else 1000)
        monkeypatch.setattr(annotation_store, "usable_cores", lambda workers=workers: workers)
        found = Annotations.cached(data)
        photos = pickle.loads(pickle.dumps(Photos(found, data.parent, vocabulary)))
        labeler = Labeler(vocabulary)
        taught = [row for row in rows if row.split == "train"]
        assert list(photos.train) == taught
        assert photos.held == [row for row in rows if row.split == "val"]
        expected = [label_row(row, labeler) for row in taught]
        assert list(zip(photos.parsed, photos.union, strict=True)) == expected
        assert photos.sha256 == Annotations.from_rows(rows).sha256
        os.utime(data, (workers, workers))  # changes the key of the data


def test_captions_are_parsed_once(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = vocabulary_of(read_rows(data))
    Annotations.cached(data).labels(vocabulary)

    def fail(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(annotation_store, "stream_data", fail)
    monkeypatch.setattr(annotation_store, "label_row", fail)
    photos = Photos(Annotations.cached(data), data.parent, vocabulary)
    assert len(photos) == 12
    more = Photos(Annotations.from_rows(read_rows(data)[:0]), data.parent, vocabulary)
    assert len(more) == 0 and not more.held


def test_changed_data_is_read_again(data: Path) -> None:
    before = Annotations.cached(data)
    lines = data.read_text(encoding="utf-8").splitlines()
    data.write_text("\n".join([*lines, json.dumps(Row("x.png", "", "train").to_dict())]), encoding="utf-8")
    after = Annotations.cached(data)
    assert (len(before), len(after)) == (18, 19)
    assert before.sha256 != after.sha256


def test_a_wrong_row_leaves_nothing_behind(data: Path) -> None:
    data.write_text('{"image": 1}\n', encoding="utf-8")
    for _ in range(2):
        with pytest.raises(AnytagError, match="line 1: not a row"):
            Annotations.cached(data)
    assert not [path for path in annotation_store.store_folder().iterdir() if path.suffix != ".lock"]


def test_what_a_killed_process_left_is_removed(data: Path) -> None:
    Annotations.cached(data)
    (folder,) = (path for path in annotation_store.store_folder().iterdir() if path.is_dir())
    folder.rename(folder.with_name(f".{folder.name}.abc"))
    assert len(Annotations.cached(data)) == 18
    assert [path for path in folder.parent.iterdir() if path.is_dir()] == [folder]


def read(data: Path) -> int:
    return len(Annotations.cached(data))


def test_processes_that_begin_together_read_it_once(data: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(read, [data] * 4) == [18] * 4
    assert len([path for path in annotation_store.store_folder().iterdir() if path.is_dir()]) == 1


def test_held_out_rows_are_a_random_sample(data: Path) -> None:
    rows = [Row(f"{n}.png", "", "val", tags=("dog" if n < 100 else "cat",)) for n in range(200)]
    vocabulary, kept = Vocabulary([Tag("dog", "dog", "object"), Tag("cat", "cat", "object")]), Kept()
    photos = Photos(rows, data.parent, vocabulary, held=40, report=kept)
    assert len(photos.held) == len(photos.truth) == 40
    assert 10 <= photos.truth[:, 0].sum() <= 30, "rows may be sorted by class"
    assert [row.tags == ("dog",) for row in photos.held] == photos.truth[:, 0].tolist()
    assert "40 of 200 held-out rows are used, drawn at random." in kept.said
    soft = np.repeat(np.eye(2, dtype=np.float16), 100, axis=0)
    soft_photos = Photos(rows, data.parent, vocabulary, held=40, soft=soft)
    assert (soft_photos.truth == photos.truth).all() and soft_photos.held == photos.held


def test_a_cache_that_cannot_be_written_is_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYTAG_HOME", str(data))
    with pytest.raises(AnytagError, match=r"the cache of annotations, cannot be written .*set ANYTAG_HOME"):
        Annotations.cached(data)
