"""Rows of the photos that the embedded model is trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anytag.data.rows import Row
from anytag.models.registry import EMBEDDED
from anytag.vocabulary import Vocabulary
from scripts.prepare_data import (
    MEDIA,
    PER_FOLDER,
    WordPhotos,
    names_of,
    new,
    objects,
    word_repositories,
)


def save(path: Path, seed: int) -> Path:
    """A photo of random patches, which no other seed resembles."""
    path.parent.mkdir(parents=True, exist_ok=True)
    patches = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)
    Image.fromarray(patches).resize((64, 64), Image.Resampling.NEAREST).save(path, "jpeg")
    return path


def test_objects_are_named_after_their_folders(tmp_path: Path) -> None:
    stims = tmp_path / "static" / "Category_learning" / "Stimuli" / "All_stims"
    save(stims / "abacus" / "1.jpg", 1)
    save(stims / "bonzai" / "TestItems" / "2.JPG", 2)
    save(stims / "pipe" / "3.jpg", 3)  # left out: no tag means a smoker's pipe
    save(stims / "abacus" / "Z_Duplicate_TestItems" / "1.jpg", 1)
    rows = list(objects(tmp_path))
    assert [(row.tags, row.absent) for row in rows] == [(("abacus",), MEDIA), (("bonsai",), MEDIA)]
    assert all(row.image.startswith("objects/static/") for row in rows)


REPOSITORY = "briank-t+vocabulary"


def word_photos() -> WordPhotos:
    nouns = {"rolling": "rolling", "pin": "pin"}
    return WordPhotos(Vocabulary.read(EMBEDDED / "vocabulary.jsonl"), nouns)


def test_words_are_objects_and_scenes(tmp_path: Path) -> None:
    for seed, name in enumerate(("rolling_pin", "airport", "afraid", "zxcvb")):
        save(tmp_path / REPOSITORY / "cards" / f"{name}.jpg", seed)
    save(tmp_path / "unknown+repository" / "airport.jpg", 5)
    rows = list(word_photos().rows(tmp_path))
    assert [row.tags for row in rows] == [("airport",), ("rolling pin",)]
    assert rows[0].image == f"words/{REPOSITORY}/cards/airport.jpg"


@pytest.mark.parametrize(
    ("stem", "tag"),
    [
        ("Rolling-Pin_02", "rolling pin"),
        ("socks", "sock"),
        ("rollingpin", "rolling pin"),
        ("t-shirt (2)", "t-shirt"),
        ("orange", "orange"),  # the fruit, not the colour
        ("afraid", None),
        ("asian-elephant", None),
        ("jelly", None),  # names.tsv: a synonym of honey in the vocabulary, but not on photos
    ],
)
def test_names_of_photos(stem: str, tag: str | None) -> None:
    found = word_photos().find(stem)
    assert (found and found.name) == tag
    assert found is None or found.kind == "object"


@pytest.mark.parametrize(("stem", "tag"), [("asian-elephant", "elephant"), ("black-kite", None)])
def test_species_of_animals(stem: str, tag: str | None) -> None:
    found = word_photos().find(stem, species=True)  # a kite is a toy
    assert (found and found.name) == tag


def test_names_in_another_language(tmp_path: Path) -> None:
    folder = tmp_path / "anacastrosalgado+DLPC" / "Images"
    for seed, name in enumerate(("galo2", "sino", "pasta", "ourico_cacheiro")):  # pasta: a folder
        save(folder / f"{name}.jpg", seed)
    assert [row.tags for row in word_photos().rows(tmp_path)] == [("rooster",), ("hedgehog",), ("bell",)]


def test_folders_name_their_photos(tmp_path: Path) -> None:
    root = tmp_path / "rathull+CTFs" / "data" / "images" / "train"
    for seed, name in enumerate(("a/airport_terminal/1", "b/bakery/shop/1", "s/slum/1", "z/zxcvb/airport")):
        save(root / f"{name}.jpg", seed)
    rows = list(word_photos().classes(tmp_path))
    assert [(row.source, row.tags) for row in rows] == [
        ("classes", ("airport terminal",)),
        ("classes", ("bakery",)),  # folders.tsv: not a shop
    ]
    assert rows[1].image == "words/rathull+CTFs/data/images/train/b/bakery/shop/1.jpg"


def test_a_folder_gives_some_of_its_photos(tmp_path: Path) -> None:
    folder = tmp_path / "rathull+CTFs" / "data" / "images" / "train" / "r" / "river"
    save(folder / "0.jpg", 0)
    for number in range(1, PER_FOLDER + 20):
        (folder / f"{number}.jpg").hardlink_to(folder / "0.jpg")
    assert len(list(word_photos().classes(tmp_path))) == PER_FOLDER


def test_the_tables_name_tags() -> None:
    photos = word_photos()
    files = {one.names for one in word_repositories() if one.names.endswith(".tsv")}
    assert files == {"ikea.tsv", "portuguese.tsv", "stamps.tsv"}
    for file in ("names.tsv", *files):
        assert set(names_of(file).values()) - {""} <= set(photos.tags)
    assert set(names_of("folders.tsv").values()) - {""} <= set(photos.named)


def test_unreadable_photos_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "words" / REPOSITORY / "airport.jpg", 1)
    (tmp_path / "words" / REPOSITORY / "bicycle.jpg").write_bytes(b"version https://git-lfs")
    (tmp_path / "words" / REPOSITORY / "cat.jpg").mkdir()
    rows = new(word_photos().rows(tmp_path / "words"), tmp_path, [])
    assert [row.tags for row in rows] == [("airport",)]
    assert "bicycle.jpg: left out" in capsys.readouterr().err
    assert new([], tmp_path, []) == []


def test_photos_kept_for_evaluation_are_not_trained_on(tmp_path: Path) -> None:
    save(tmp_path / "judged.jpg", 1)
    save(tmp_path / "words" / REPOSITORY / "airport.jpg", 1)
    for name in ("bicycle", "bike"):  # the same photo twice
        save(tmp_path / "words" / REPOSITORY / f"{name}.jpg", 2)
    rows = new(word_photos().rows(tmp_path / "words"), tmp_path, [Row("judged.jpg", "cutouts", "test")])
    assert [row.tags for row in rows] == [("bicycle",)]
