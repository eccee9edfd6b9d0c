from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from anytag.errors import AnytagError, CardError, ModelError
from anytag.models.card import Card
from tests.tiny import make_tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_tiny_model(tmp_path / "tiny")


def put(data: Any, path: str, value: Any) -> None:
    """Set data["a"]["b"] for a path "a.b"."""
    *parents, last = path.split(".")
    for parent in parents:
        data = data[parent]
    data[last] = value


def change(folder: Path, path: str, value: Any) -> Path:
    """Change one field of the folder's card."""
    file = folder / "card.json"
    data = json.loads(file.read_text())
    put(data, path, value)
    file.write_text(json.dumps(data))
    return folder


def test_reads_what_it_wrote(folder: Path) -> None:
    card = Card.read(folder)
    assert card == Card.read(folder / "card.json")
    assert card.image.std == (0.25, 0.25, 0.25)
    assert card.calibration.own.bias == -0.25
    assert card.files["image.onnx"].bytes == (folder / "image.onnx").stat().st_size
    before = (folder / "card.json").read_bytes()
    card.write(folder)
    assert (folder / "card.json").read_bytes() == before
    assert [path.name for path in folder.glob("card*")] == ["card.json"]


def test_is_frozen(folder: Path) -> None:
    with pytest.raises(AttributeError):
        Card.read(folder).width = 3  # type: ignore[misc]


def test_metrics_are_free(folder: Path) -> None:
    metrics = {"mAP": 0.31, "flickr8k": {"p@1": 0.77, "note": "test", "seeds": [1, 2]}, "ece": None}
    assert Card.read(change(folder, "metrics", metrics)).metrics == metrics


def test_whole_numbers_are_numbers(folder: Path) -> None:
    scale = Card.read(change(folder, "calibration.vocabulary.scale", 2)).calibration.vocabulary.scale
    assert (scale, type(scale)) == (2.0, float)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("name", 3, "name: expected text, got 3"),
        ("name", "../up", "name: expected letters"),
        ("family", "clip", "family: expected 'mini' or 'ram' or 'ram-plus' or 'tag2text', got 'clip'"),
        ("family", ["mini"], "family: expected"),
        ("width", 8.0, "width: expected a whole number, got 8.0"),
        ("width", True, "width: expected a whole number, got True"),
        ("width", 0, "width: expected a positive number, got 0"),
        ("shortlist", -1, "shortlist: expected"),
        ("image", [], "image: expected an object, got []"),
        ("image.size", "16", "image.size: expected a whole number, got '16'"),
        ("image.size", -16, "image.size: expected a positive"),
        ("image.resample", "best", "image.resample: expected 'nearest' or"),
        ("image.mean", [0.5, 0.5], "image.mean: expected a list of 3"),
        ("image.mean", 0.5, "image.mean: expected a list of 3"),
        ("image.std", [0.5, None, 0.5], "image.std[1]: expected a number, got None"),
        ("image.std", [0.5, 0, 0.5], "image.std: expected three positive"),
        ("image.std", [0.5, 10**400, 0.5], "image.std[1]: expected a number"),
        ("image.crop", 1, "image.crop is not a field"),
        ("text.kind", "clip", "text.kind: expected 'static'"),
        ("calibration.own", None, "calibration.own: expected an object"),
        ("calibration.own.scale", False, "calibration.own.scale: expected a number"),
        ("calibration.own.scale", -1, "calibration.own.scale: expected a positive"),
        ("metrics", [], "metrics: expected an object"),
        ("files", {"a": 3}, "files.a: expected an object, got 3"),
        ("files", {"a": {"bytes": 1}}, "files.a.sha256 is missing"),
        ("files", {"a": {"bytes": 1, "sha256": "0" * 63}}, "files.a.sha256: expected 64 hex"),
        ("files", {"a": {"bytes": -1, "sha256": "0" * 64}}, "files.a.bytes: expected a size"),
        ("pickle", "x", "pickle is not a field"),
        ("format", 2, "format: this anytag reads 1, the card has 2; if it is newer, upgrade: pip install"),
        ("format", "1", "format: this anytag reads 1"),
        ("format", True, "format: this anytag reads 1"),
    ],
)
def test_a_wrong_field_is_named_with_its_file(folder: Path, field: str, value: Any, told: str) -> None:
    with pytest.raises(CardError) as caught:
        Card.read(change(folder, field, value))
    assert told in str(caught.value)
    assert str(folder / "card.json") in str(caught.value)


def fields_of(data: dict[str, Any], where: str = "") -> list[str]:
    found: list[str] = []
    for name, value in data.items():
        found.append(where + name)
        if isinstance(value, dict) and name not in ("files", "metrics"):
            found += fields_of(value, f"{where}{name}.")
    return found


def test_every_field_is_needed(folder: Path) -> None:
    file = folder / "card.json"
    whole = file.read_text()
    names = [name for name in fields_of(json.loads(whole)) if name != "search"]
    assert len(names) == 15 + 4 + 2 + 2 + 4 + 9  # of the card, its image, text, calibration, lines and search
    for name in names:
        data = json.loads(whole)
        inner = data
        *parents, last = name.split(".")
        for parent in parents:
            inner = inner[parent]
        del inner[last]
        file.write_text(json.dumps(data))
        with pytest.raises(CardError, match=last):
            Card.read(folder)


def test_optional_fields_are_written_only_when_they_say_something(folder: Path) -> None:
    card = Card.read(folder)
    assert (card.network, card.source) == ({}, {})
    replace(card, network={"image": {"depths": [2, 2]}}, text=None).write(folder)
    data = json.loads((folder / "card.json").read_text())
    assert data["text"] is None
    assert "source" not in data
    assert Card.read(folder).network == {"image": {"depths": [2, 2]}}
    assert Card.read(folder).text is None
    with pytest.raises(CardError, match="network: expected an object"):
        Card.read(change(folder, "network", 3))


def test_a_missing_card_is_named(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"card\.json does not exist; a model is a folder"):
        Card.read(tmp_path)
    with pytest.raises(CardError, match="does not exist"):
        Card.read(tmp_path / "none" / "card.json")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b'{"format": NaN}', b"[" * 100_000, b"nul", b"{}{}", b"1" * 5000]
)
def test_what_is_not_json_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "card.json").write_bytes(content)
    with pytest.raises(CardError, match=r"card\.json"):
        Card.read(tmp_path)


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "card.json").mkdir()
    with pytest.raises(CardError):
        Card.read(tmp_path)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), value=anything)
@example(data=None, value=[])
def test_any_change_is_a_card_or_a_card_error(folder: Path, data: Any, value: Any) -> None:
    """Whatever JSON stands in a field, the result is a card or an error of this library."""
    file = folder / "card.json"
    whole = file.read_text()
    names = fields_of(json.loads(whole))
    try:
        change(folder, data.draw(st.sampled_from(names)) if data is not None else "files", value)
        card = Card.read(folder)
    except AnytagError as error:
        assert isinstance(error, ModelError)
    else:
        assert isinstance(card, Card)
    finally:
        file.write_text(whole)


def test_a_card_that_is_no_object_is_named(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text("[1]")
    with pytest.raises(CardError, match="expected an object, got"):
        Card.read(tmp_path)
