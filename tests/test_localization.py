"""`anytag.localization`, and where tags are as users get it from `Tagger` and `anytag tag --where`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from anytag import Box, ModelError, Tagger, TagScore
from anytag import localization as where
from anytag.localization import box_of, draw, heat_maps, largest_region
from anytag.models.card import Card
from anytag.models.folder import write_card
from anytag.torch.nn.configs import CrossConfig
from anytag.torch.nn.cross_decoder import CrossDecoder
from tests.command import run
from tests.pictures import quarters
from tests.tiny import make_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def tagger(folder: Path) -> Tagger:
    return Tagger.load(folder)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.fromarray(quarters()).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_heat_is_what_speaks_for_a_tag() -> None:
    heat = heat_maps(np.array([[-3, 0, 1, 2], [-1, -2, -3, -4], [5, 5, 5, 5]], np.float32))
    assert heat.dtype == np.float32
    np.testing.assert_array_equal(heat, [[[0, 0], [0.5, 1]], np.zeros((2, 2)), np.zeros((2, 2))])


def test_a_token_of_the_whole_photo_is_not_on_the_map() -> None:
    np.testing.assert_array_equal(heat_maps(np.array([[9, 1, 2, 1, 1]], np.float32)), [[[0, 1], [0, 0]]])


def test_cross_attention_of_the_published_families_is_a_map() -> None:
    numbers = CrossConfig(hidden=16, layers=2, mlp=32)
    decoder = CrossDecoder(numbers, width=12, heads=4, queries="descriptions")
    tokens = torch.randn(1, 17, 12)  # one for the whole photo, and 4×4
    _, where = decoder.localize(tokens, tokens[:, 0], torch.randn(1, 5, 3, 12))
    heat = heat_maps(where[0].detach().numpy())
    assert heat.shape == (5, 4, 4)
    np.testing.assert_array_equal(heat.max((1, 2)), 1)
    assert all(box_of(one, width=80, height=60) for one in heat)


def test_tokens_that_are_no_square_are_refused() -> None:
    with pytest.raises(ModelError, match="6 tokens"):
        heat_maps(np.zeros((1, 6), np.float32))


@settings(max_examples=60, deadline=None)
@given(mask=arrays(bool, st.tuples(st.integers(1, 6), st.integers(1, 6))))
def test_largest_region_is_connected_and_no_larger_one_is_left(mask: np.ndarray) -> None:
    patch = largest_region(mask)
    assert not (patch & ~mask).any()
    grown = patch.copy()
    grown[1:] |= patch[:-1]
    grown[:-1] |= patch[1:]
    grown[:, 1:] |= patch[:, :-1]
    grown[:, :-1] |= patch[:, 1:]
    np.testing.assert_array_equal(grown & mask, patch)  # nothing that touches it is left out
    if mask.any():
        assert patch.any()
        assert largest_region(mask & ~patch).sum() <= patch.sum()


def test_box_is_around_the_largest_warm_patch_in_pixels_of_the_photo() -> None:
    heat = np.zeros((4, 8), np.float32)
    heat[1:3, 4:7] = 1
    heat[0, 0] = 1  # a smaller patch
    box = box_of(heat, width=800, height=200)
    assert box is not None
    np.testing.assert_allclose(box, (400, 50, 700, 150), atol=30)  # the edge is where the heat has half faded
    assert box_of(np.zeros((4, 4), np.float32), width=9, height=9) is None


@settings(max_examples=40, deadline=None)
@given(
    heat=arrays(np.float32, (3, 3), elements=st.floats(0, 1, width=32)),
    width=st.integers(1, 500) | st.integers(1, 100_000),
    height=st.integers(1, 500) | st.integers(1, 100_000),
)
def test_box_lies_in_the_photo(heat: np.ndarray, width: int, height: int) -> None:
    box = box_of(heat, width=width, height=height)
    assert (box is None) == (not heat.any())
    if box is not None:
        assert 0 <= box.left < box.right <= width
        assert 0 <= box.top < box.bottom <= height


def test_tagger_tells_where(tagger: Tagger, photo: Path) -> None:
    plain = tagger.tag(photo, threshold=0, also=["red corner"])
    located = tagger.tag(photo, threshold=0, also=["red corner"], where=True)
    assert located == plain or [tag.name for tag in located.tags] == [tag.name for tag in plain.tags]
    assert all(tag.box is None and tag.heat is None for tag in plain.tags)
    for tag in located.tags:
        assert tag.heat is not None
        assert tag.heat.shape == (4, 4)
        assert (tag.box is not None) == bool(tag.heat.any())


def test_heat_is_the_runtimes_where_for_shortlist_and_exact_questions(tagger: Tagger, photo: Path) -> None:
    encoded = tagger.encode(photo)
    found = tagger.score(encoded, where=True, also=["own words"])
    for tag in found.tags:
        (alone,) = [one for one in tagger.score(encoded, [tag.name], where=True).tags if one.id == tag.id]
        assert alone.heat is not None
        assert tag.heat is not None
        np.testing.assert_allclose(alone.heat, tag.heat, atol=1e-5)
        assert alone.box == tag.box


def test_many_photos_are_located_and_a_bad_one_goes_by(tagger: Tagger, photo: Path) -> None:
    photos = [photo, photo.with_name("missing.png"), photo]
    first, bad, last = tagger.tag_many(photos, threshold=0, where=True)
    assert bad.error is not None
    assert first == last
    assert [tag.box for tag in first.tags] == [
        tag.box for tag in tagger.tag(photo, threshold=0, where=True).tags
    ]


def test_no_tags_nowhere(tagger: Tagger, photo: Path) -> None:
    assert tagger.tag(photo, threshold=1, where=True).tags == ()


def test_drawing_has_a_panel_a_tag(tagger: Tagger, photo: Path) -> None:
    tags = tagger.tag(photo, threshold=0, top_k=3, where=True).tags
    sheet = draw(Image.fromarray(quarters()), tags)
    assert sheet.size == (2 * 320, 2 * 213)
    assert draw(Image.fromarray(quarters()), ()).size == (320, 213)


@pytest.mark.parametrize("size", [(65_000, 40), (40, 65_000), (1, 1), (1, 20_000), (20_000, 1), (8, 8)])
def test_pictures_of_any_shape_are_drawn(size: tuple[int, int], tagger: Tagger) -> None:
    tags = tagger.tag(Image.new("RGB", size, (250, 10, 20)), threshold=0, top_k=3, where=True).tags
    sheet = draw(Image.new("RGB", size), tags)
    assert max(sheet.size) <= 2 * 320
    assert min(sheet.size) >= 2 * 24


def test_a_smaller_picture_is_drawn_with_the_boxes_of_the_original() -> None:
    heat = np.ones((4, 4), np.float32)
    tag = TagScore(id="x", name="x", score=1.0, source="custom", box=Box(500, 0, 1000, 500), heat=heat)
    large, small = Image.new("RGB", (1000, 500)), Image.new("RGB", (250, 125))
    sheets = [np.asarray(draw(large, [tag])), np.asarray(draw(small, [tag], size=(1000, 500)))]
    assert sheets[0].shape == sheets[1].shape == (160, 320, 3)
    assert np.abs(sheets[0].astype(int) - sheets[1]).max() <= 2


def test_command_draws_very_long_photos_and_goes_on(folder: Path, photo: Path, tmp_path: Path) -> None:
    Image.new("RGB", (9000, 5), (250, 10, 20)).save(tmp_path / "long.png")
    options = ("--model", folder, "--threshold", "0", "--draw", tmp_path / "drawn")
    done = run("tag", tmp_path / "long.png", photo, *options)
    assert done.exit_code == 0
    assert len(list((tmp_path / "drawn").rglob("long.png.tags.jpg"))) == 1
    assert len(list((tmp_path / "drawn").rglob(f"{photo.name}.tags.jpg"))) == 1


def test_model_without_where_is_an_error_that_says_so(folder: Path, tmp_path: Path, photo: Path) -> None:
    older = make_tiny_model(tmp_path / "older")
    graph = onnx.load(older / "tags.onnx")
    del graph.graph.output[1:]
    onnx.save(graph, older / "tags.onnx")
    write_card(older, Card.read(older / "card.json"))
    tagger = Tagger.load(older)
    assert tagger.tag(photo, threshold=0).tags
    with pytest.raises(ModelError, match="export the model again"):
        tagger.tag(photo, threshold=0, where=True)


def test_command_gives_boxes_and_pictures(folder: Path, photo: Path, tmp_path: Path) -> None:
    twin = tmp_path / "other" / "PHOTO.png"
    twin.parent.mkdir()
    twin.write_bytes(photo.read_bytes())
    options = ("--model", folder, "--threshold", "0", "--where", "--draw", tmp_path / "drawn")
    done = run("tag", photo, twin, tmp_path / "missing.png", *options, "--format", "jsonl")
    assert done.exit_code == 1
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    boxes = [tag["box"] for tag in rows[0]["tags"] if "box" in tag]
    assert boxes
    assert all(len(Box(*box)) == 4 for box in boxes)
    assert "heat" not in rows[0]["tags"][0]
    drawn = [path for path in (tmp_path / "drawn").rglob("*") if path.is_file()]
    assert sorted(path.name for path in drawn) == ["PHOTO.png.tags.jpg", f"{photo.name}.tags.jpg"]


@pytest.mark.parametrize("form", ["csv", "text"])
def test_boxes_in_csv_and_text(form: str, folder: Path, photo: Path) -> None:
    done = run("tag", photo, "--model", folder, "--threshold", "0", "--where", "--format", form)
    lines = done.stdout.splitlines()
    if form == "csv":
        assert lines[0].endswith(",left,top,right,bottom")
        assert {line.count(",") for line in lines} == {13}
    else:
        assert "[" in lines[0]


def test_embedded_model_finds_the_cat() -> None:
    """The cat's face fills the photo but for the right edge."""
    photo = Path(__file__).parents[1] / "examples" / "photos" / "cat.jpg"
    (tag,) = Tagger.load().tag(photo, ["cat"], where=True).tags
    assert tag.box is not None
    assert (tag.box.left + tag.box.right) / 2 < 300
    assert tag.box.right - tag.box.left > 150


def test_labels_are_in_letters_that_a_font_has(monkeypatch: pytest.MonkeyPatch) -> None:
    def tag(id: str, name: str) -> TagScore:
        return TagScore(id, name, 0.5, "vocabulary")

    assert where._label(tag("dog", "Käse")) == ("Käse", None)
    monkeypatch.setattr(where, "_fonts", lambda: ())
    assert where._label(tag("cat", "猫")) == ("cat", None)
    assert where._label(tag("custom:猫", "猫")) == ("?", None)
    monkeypatch.undo()
    for font in where._fonts():
        # A fallback font has no Latin letters.
        assert where._has_letters(font, "dog cat") or where._has_letters(font, "猫")
        assert not where._has_letters(font, "dog \U0010fffe")
