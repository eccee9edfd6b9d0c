"""What users of other programs reported, made again by small files."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anytag.metadata import read_keywords, write_keywords
from tests import xmp
from tests.command import run
from tests.tiny import make_tiny_model

pytestmark = xmp.NEEDS_EXIFTOOL


def test_six_words_of_which_one_is_in_the_tree(tmp_path: Path) -> None:
    """immich#28015: of six keywords only the one in `lr:hierarchicalSubject` was imported."""
    words = ["one", "two", "three", "four", "five", "six"]
    photo = xmp.photo(tmp_path / "a.jpg")
    both = [f"-{name}={word}" for name in (xmp.SUBJECT, xmp.IPTC) for word in words]
    xmp.tag(photo, *both, f"-{xmp.TREE}=six")
    assert {word[-1] for word in next(read_keywords([photo])).keywords} == set(words)
    for embed in (False, True):
        write_keywords(photo, ["dog"], embed=embed)
        for name in xmp.FIELDS:
            assert set(xmp.one_list(photo if embed else tmp_path / "a.jpg.xmp", name)) == {*words, "dog"}
    assert xmp.immich(photo, [tmp_path / "a.jpg.xmp"]) == {*words, "dog"}


def test_a_heic_of_a_grid_with_a_thumbnail_shows_the_same_afterwards(tmp_path: Path) -> None:
    """kei#552: files that nothing opened."""
    import pillow_heif

    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    picture = Image.fromarray(pixels).resize((1100, 900))
    photo = tmp_path / "a.heic"
    heif = pillow_heif.from_pillow(picture)
    heif.add_from_pillow(picture.resize((64, 48)))
    heif.save(photo, quality=70, exif=picture.getexif().tobytes())
    before = [np.asarray(one.to_pillow()).tobytes() for one in pillow_heif.open_heif(photo)]
    write_keywords(photo, ["dog", "測試"], embed=True)
    after = [np.asarray(one.to_pillow()).tobytes() for one in pillow_heif.open_heif(photo)]
    assert after == before
    assert xmp.one_list(photo, xmp.SUBJECT) == ["dog", "測試"]


@pytest.mark.parametrize("tag", ["f2.8", "AT&T", "Johnson, Seward", "24/7", "a|b"])
def test_a_tag_with_a_separator_is_one_tag_in_every_output(tmp_path: Path, tag: str) -> None:
    """Piwigo#1091 and omeka#660."""
    model = make_tiny_model(tmp_path / "tiny")
    photo = xmp.photo(tmp_path / "a.jpg")
    tags = tmp_path / "tags.txt"
    tags.write_text(tag + "\n")
    options = (photo, "--model", model, "--tags-from", tags, "--threshold", "0")
    [row] = csv.DictReader(io.StringIO(run("tag", *options, "--format", "csv").stdout))
    assert row["name"] == tag
    found = json.loads(run("tag", *options, "--format", "jsonl", "--write", "sidecar").stdout)
    assert [one["name"] for one in found["tags"]] == [tag]
    lists = xmp.lists(tmp_path / "a.jpg.xmp")
    assert lists[xmp.SUBJECT] == [tag]
    assert "/" not in lists[xmp.TAGS_LIST][0]
    assert "|" not in lists[xmp.TREE][0]
