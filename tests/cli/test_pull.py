"""From the Hub to an installed model and back, over HTTP on this machine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from anytag import Tagger
from anytag.models import registry as models
from anytag.models.card import Card
from anytag.models.folder import ModelFolder
from anytag.models.published import BENCHMARKS, CLIP, PUBLISHED, clip, lists
from anytag.torch.checkpoints.load import load_network
from tests.clips import save_tiny_clip
from tests.command import run
from tests.hub_server import COMMIT, Hub, serving
from tests.released import make_tensors, write_checkpoint, write_lists
from tests.tiny import make_tiny_model


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the authors publish, in small: by path below the host."""
    folder = write_lists(tmp_path_factory.mktemp("published"))
    files = {}
    for family, published in PUBLISHED.items():
        tensors = make_tensors(family, full=family == "ram-plus")
        file = write_checkpoint(folder / f"{family}.pth", tensors, optimizer={"state": torch.zeros(9)})
        files[published.checkpoint.path] = file.read_bytes()
        files |= {one.path: (folder / one.local).read_bytes() for one in published.lists}
    return files


@pytest.fixture
def hub(released: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("ANYTAG_HOME", str(tmp_path / "home"))
    for family, published in PUBLISHED.items():  # lists of other content than the published ones
        lists = tuple(replace(one, sha256="") for one in published.lists)
        monkeypatch.setitem(PUBLISHED, family, replace(published, lists=lists))
    with serving() as hub:
        hub.files = dict(released)
        monkeypatch.setenv("ANYTAG_HUB", hub.url)
        yield hub


def test_pull_downloads_checks_converts_and_tells(hub: Hub) -> None:
    path = PUBLISHED["ram-plus"].checkpoint.path
    hub.breaks[path] = [50_000, 400_000]
    result = run("pull", "ram-plus")
    assert result.exit_code == 0, result.output
    assert hub.ranges(path) == [None, "bytes=50000-", "bytes=400000-"]
    sha256 = hashlib.sha256(hub.files[path]).hexdigest()
    assert f"ram_plus_swin_large_14m.pth: downloaded, {len(hub.files[path]) / 1e6:,.1f} MB" in result.output
    assert sha256[:16] in result.output
    assert "Installed as ram-plus" in result.output
    folder = models.resolve("ram-plus")
    card = ModelFolder.open(folder).card
    assert card.source["sha256"] == sha256
    assert card.source["url"] == f"{hub.url}/{path}"
    assert card.source["revision"] == COMMIT
    assert load_network(folder).config.size == 384
    assert "ram-plus" in run("models").output
    hub.asked.clear()
    again = run("pull", "ram-plus")
    assert again.exit_code == 0
    assert "is already installed" in again.output
    assert hub.asked == []


@pytest.mark.parametrize("family", ["ram", "tag2text"])
def test_pull_brings_the_wordpieces_of_captions(hub: Hub, family: str) -> None:
    result = run("pull", family, "--name", "mine", "--image-size", "64")
    assert result.exit_code == 0, result.output
    folder = models.resolve("mine")
    assert (folder / "text" / "vocab.txt").is_file()
    assert "captions   yes" in result.output
    assert load_network(folder).captions is not None


def test_pull_fetches_text_vectors_where_the_checkpoint_lacks_them(hub: Hub, tmp_path: Path) -> None:
    published = PUBLISHED["ram"]
    tensors = make_tensors("ram")
    torch.save(tensors.pop("label_embed"), tmp_path / "labels.pth")
    hub.files[published.checkpoint.path] = write_checkpoint(tmp_path / "x.pth", tensors).read_bytes()
    assert published.embedding is not None
    hub.files[published.embedding.path] = (tmp_path / "labels.pth").read_bytes()
    result = run("pull", "ram", "--no-captions", "--dtype", "float16")
    assert result.exit_code == 0, result.output
    assert "ram_tag_embedding_class_4585.pth: downloaded" in result.output
    assert "embedding" in Card.read(models.resolve("ram")).source


def test_pull_fetches_the_text_tower_for_custom_tags(hub: Hub, tmp_path: Path) -> None:
    """Also for a model that is installed; CLIP's weights are published as torch wrote them."""
    clip_files = save_tiny_clip(tmp_path / "clip", width=32)
    weights = load_file(clip_files / "model.safetensors")
    torch.save({**weights, "vision_model.x": torch.zeros(2)}, clip_files / "pytorch_model.bin")
    hub.files |= {one.path: (clip_files / one.local).read_bytes() for one in CLIP}
    assert run("pull", "ram-plus", "--image-size", "64").exit_code == 0
    assert Card.read(models.resolve("ram-plus")).text is None
    result = run("pull", "ram-plus", "--text")
    assert result.exit_code == 0, result.output
    assert "is already installed" in result.output
    assert "pytorch_model.bin: downloaded" in result.output
    assert "now supports custom tags: clip-vit-base-patch16 (transformers), 32 dimensions" in result.output
    picture = np.zeros((20, 20, 3), np.uint8)
    assert Tagger.load("ram-plus").tag(picture, tags=["espresso"]).tags[0].source == "custom"
    result = run("pull", "tag2text", "--text")
    assert result.exit_code == 2
    assert "learned queries" in result.output


def test_offline_it_says_where_the_text_tower_goes(hub: Hub) -> None:
    result = run("pull", "ram", "--text")
    assert result.exit_code == 2
    told = re.findall(r"-> (\S+)", result.output)
    assert [Path(place) for place in told] == [clip() / one.local for one in CLIP]
    assert not (models.cache() / "ram").exists()


def test_a_wrong_hash_installs_nothing(hub: Hub) -> None:
    path = PUBLISHED["tag2text"].checkpoint.path
    hub.etags[path] = "0" * 64
    result = run("pull", "tag2text")
    assert result.exit_code == 2
    assert "damaged in transit" in result.output
    assert not (models.cache() / "tag2text").exists()


def test_a_truncated_checkpoint_installs_nothing(hub: Hub) -> None:
    path = PUBLISHED["tag2text"].checkpoint.path
    hub.files[path] = hub.files[path][:-5000]
    result = run("pull", "tag2text")
    assert result.exit_code == 2
    assert "is truncated or not a checkpoint" in result.output
    assert not (models.cache() / "tag2text").exists()


def test_offline_it_says_which_files_to_put_where_and_takes_them(
    hub: Hub, released: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYTAG_HUB", "http://127.0.0.1:9")
    result = run("pull", "tag2text")
    assert result.exit_code == 2
    told = re.findall(r"http://127\.0\.0\.1:9/(\S+)\s+-> (\S+)", result.output)
    assert {path for path, _ in told} == {
        PUBLISHED["tag2text"].checkpoint.path,
        *(one.path for one in PUBLISHED["tag2text"].lists),
    }
    for path, place in told:
        Path(place).write_bytes(released[path])
    result = run("pull", "tag2text")
    assert result.exit_code == 0, result.output
    assert "already there, not checked" in result.output


def test_push_then_pull_a_folder(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_tiny_model(tmp_path / "tiny")
    assert "set HF_TOKEN" in run("push", model, "me/tiny").output
    monkeypatch.setenv("HF_TOKEN", "secret")
    result = run("push", model, "me/tiny")
    assert result.exit_code == 0, result.output
    assert "anytag pull hf-hub:me/tiny" in result.output
    hub.put("me/tiny/resolve/main", hub.commits[0])
    result = run("pull", "hf-hub:me/tiny")
    assert result.exit_code == 0, result.output
    assert "Installed as tiny" in result.output
    assert Card.read(models.resolve("tiny")) == Card.read(model)
    assert run("pull", "hf-hub:me/tiny", "--name", "other").exit_code == 0
    assert models.resolve("other").name == "other"


def test_pull_lists_brings_the_annotations_of_benchmarks(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    small = tuple(replace(one, sha256="") for one in BENCHMARKS)
    monkeypatch.setattr("anytag.models.published.BENCHMARKS", small)
    hub.files |= {one.path: one.local.encode() for one in small}
    result = run("pull", "lists")
    assert result.exit_code == 0, result.output
    assert {path.name: path.read_text() for path in lists().iterdir() if path.is_file()} == {
        one.local: one.local for one in BENCHMARKS
    }


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("ram++",), "expected ram-plus, ram, tag2text, lists or hf-hub:owner/name"),
        (("hf-hub:../x",), "expected owner/name"),
        (("ram", "--name", "../up"), "expected letters, digits"),
        (("hf-hub:me/none",), "could not download all files"),
    ],
)
def test_what_cannot_be_pulled_is_told(hub: Hub, arguments: tuple[str, ...], told: str) -> None:
    result = run("pull", *arguments)
    assert result.exit_code == 2
    assert told in re.sub(r"\s+", " ", result.output)
