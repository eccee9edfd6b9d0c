from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anytag.errors import CardError, FileMismatchError, ModelError
from anytag.models import registry as hub
from anytag.models.card import Card, TextSpec
from anytag.models.folder import ModelFolder, inside, write_card
from tests.tiny import make_tiny_model

FILES = {
    "descriptions.jsonl",
    "image.onnx",
    "queries.safetensors",
    "tags.onnx",
    "text/projection.safetensors",
    "text/table.safetensors",
    "text/tokenizer.json",
    "vocabulary.jsonl",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_tiny_model(tmp_path / "tiny")


def relist(path: Path, files: dict[str, str]) -> None:
    """Give listed files other names in the card: {old: new}."""
    data = json.loads((path / "card.json").read_text())
    data["files"] = {files.get(name, name): facts for name, facts in data["files"].items()}
    (path / "card.json").write_text(json.dumps(data))


def test_opens_a_whole_folder(path: Path) -> None:
    folder = ModelFolder.open(path)
    assert set(folder.card.files) == FILES
    assert folder.file("image.onnx") == path / "image.onnx"
    assert folder.text == path / "text"
    assert "image.onnx" in folder
    assert "caption.onnx" not in folder


def test_the_same_arguments_write_the_same_bytes(path: Path, tmp_path: Path) -> None:
    again = make_tiny_model(tmp_path / "again")
    assert Card.read(again) == Card.read(path)
    assert Card.read(make_tiny_model(tmp_path / "other", seed=1)) != Card.read(path)


def test_write_card_says_what_lies_there(path: Path) -> None:
    (path / "LICENSE").write_text("free\n")
    (path / ".DS_Store").write_text("hidden")
    (path / "text" / ".cache").mkdir()
    (path / "text" / ".cache" / "file").write_text("hidden")
    card = write_card(path, Card.read(path))
    assert card == Card.read(path)
    assert set(card.files) == FILES | {"LICENSE"}
    for name, facts in card.files.items():
        content = (path / name).read_bytes()
        assert (facts.bytes, facts.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_write_card_makes_the_first_card(path: Path) -> None:
    card = replace(Card.read(path), files={})
    (path / "card.json").unlink()
    assert set(write_card(path, card).files) == FILES
    ModelFolder.open(path)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_missing_file_is_named(path: Path, name: str) -> None:
    (path / name).unlink()
    with pytest.raises(FileMismatchError, match=f"{Path(name).name} is missing"):
        ModelFolder.open(path, verify=False)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_of_another_size_is_named(path: Path, name: str) -> None:
    with (path / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(FileMismatchError, match=rf"{Path(name).name} has \d+ bytes, the card says"):
        ModelFolder.open(path, verify=False)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_of_another_hash_is_named(path: Path, name: str) -> None:
    content = bytearray((path / name).read_bytes())
    content[-1] ^= 1
    (path / name).write_bytes(content)
    ModelFolder.open(path, verify=False)
    for verify in (True, None):
        with pytest.raises(FileMismatchError, match=f"{Path(name).name} has sha256 "):
            ModelFolder.open(path, verify=verify)


def test_the_embedded_folder_is_not_hashed_by_default(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path / "descriptions.jsonl").write_bytes(b"#" * (path / "descriptions.jsonl").stat().st_size)
    monkeypatch.setattr("anytag.models.folder.EMBEDDED", path)
    ModelFolder.open(path)
    with pytest.raises(FileMismatchError, match="sha256"):
        ModelFolder.open(path, verify=True)


def test_a_folder_in_place_of_a_file_is_named(path: Path) -> None:
    (path / "image.onnx").unlink()
    (path / "image.onnx").mkdir()
    with pytest.raises(FileMismatchError, match=r"image\.onnx is missing"):
        ModelFolder.open(path)


@pytest.mark.parametrize(
    "name",
    [
        "../image.onnx",
        "text/../image.onnx",
        "/etc/hostname",
        "./image.onnx",
        "..",
        ".",
        "",
        "text//table.safetensors",
        "text/",
        "C:/windows",
        "..\\image.onnx",
        "a\0b",
    ],
)
def test_a_path_that_leads_outside_is_named(path: Path, name: str) -> None:
    relist(path, {"image.onnx": name})
    with pytest.raises(FileMismatchError, match="expected a relative path"):
        ModelFolder.open(path, verify=False)


def test_a_link_that_leads_outside_is_named(path: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.onnx"
    (path / "image.onnx").rename(outside)
    (path / "image.onnx").symlink_to(outside)
    with pytest.raises(FileMismatchError, match=r"image\.onnx is a link that leads outside"):
        ModelFolder.open(path)
    with pytest.raises(FileMismatchError, match="leads outside"):
        write_card(path, Card.read(path))


def test_a_linked_subfolder_that_leads_outside_is_named(path: Path, tmp_path: Path) -> None:
    (path / "text").rename(tmp_path / "words")
    (path / "text").symlink_to(tmp_path / "words", target_is_directory=True)
    with pytest.raises(FileMismatchError, match="leads outside"):
        ModelFolder.open(path)


def test_a_link_that_stays_inside_is_read(path: Path) -> None:
    (path / "tags.onnx").rename(path / "decoder.onnx")
    (path / "tags.onnx").symlink_to("decoder.onnx")
    ModelFolder.open(path)


def test_a_link_to_itself_is_an_error_of_ours(path: Path) -> None:
    (path / "tags.onnx").unlink()
    (path / "tags.onnx").symlink_to("tags.onnx")
    with pytest.raises(FileMismatchError, match=r"tags\.onnx"):
        ModelFolder.open(path)


def test_a_folder_that_is_itself_a_link_is_read(path: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(path, target_is_directory=True)
    assert ModelFolder.open(tmp_path / "link").text == tmp_path / "link" / "text"


def test_an_unlisted_file_is_not_handed_out(path: Path) -> None:
    (path / "extra.onnx").write_bytes(b"never checked")
    folder = ModelFolder.open(path)
    with pytest.raises(FileMismatchError, match=r"does not list the file 'extra\.onnx'"):
        folder.file("extra.onnx")
    with pytest.raises(FileMismatchError, match="does not list the file"):
        folder.file("card.json")


def test_an_unlisted_file_makes_a_subfolder_unfit(path: Path) -> None:
    (path / "text" / "extra.safetensors").write_bytes(b"never checked")
    with pytest.raises(FileMismatchError, match=r"does not list the file 'text/extra\.safetensors'"):
        _ = ModelFolder.open(path).text


@pytest.mark.parametrize("name", ["..", "/etc", "none", "image.onnx"])
def test_a_wrong_text_folder_is_named(path: Path, name: str) -> None:
    card = Card.read(path)
    write_card(path, replace(card, text=TextSpec("static", name)))
    with pytest.raises(FileMismatchError):
        _ = ModelFolder.open(path).text


def test_a_model_without_a_text_encoder_says_so(path: Path) -> None:
    write_card(path, replace(Card.read(path), text=None))
    with pytest.raises(ModelError, match="tiny has no text encoder"):
        _ = ModelFolder.open(path).text


def test_no_card_no_folder(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"card\.json does not exist"):
        ModelFolder.open(tmp_path)


@given(name=st.text(alphabet="ab./\\:\0~ ", max_size=12) | st.text(max_size=20))
def test_inside_stays_inside(name: str) -> None:
    folder = Path(os.sep) / "models" / "tiny"
    try:
        found = inside(folder, name)
    except FileMismatchError:
        return
    assert found.is_relative_to(folder)
    assert found != folder
    assert ".." not in found.parts


@pytest.mark.skipif(not (hub.EMBEDDED / "card.json").is_file(), reason="the embedded model is not built yet")
def test_the_embedded_folder_is_whole() -> None:
    assert ModelFolder.open(hub.EMBEDDED, verify=True).card.name == hub.DEFAULT
