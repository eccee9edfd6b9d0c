"""Rows of the photos that the embedded model is trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from anytag.data.rows import Row
from scripts.prepare_data import MEDIA, new, objects, words


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


def test_words_are_objects_and_scenes(tmp_path: Path) -> None:
    for seed, name in enumerate(("rolling_pin", "airport", "afraid", "zxcvb")):
        save(tmp_path / "cards" / f"{name}.jpg", seed)
    assert [row.tags for row in words(tmp_path)] == [("airport",), ("rolling pin",)]


def test_photos_kept_for_evaluation_are_not_trained_on(tmp_path: Path) -> None:
    save(tmp_path / "judged.jpg", 1)
    save(tmp_path / "words" / "airport.jpg", 1)
    save(tmp_path / "words" / "bicycle.jpg", 2)
    rows = new(words(tmp_path / "words"), tmp_path, [Row("judged.jpg", "cutouts", "test")])
    assert [row.tags for row in rows] == [("bicycle",)]
