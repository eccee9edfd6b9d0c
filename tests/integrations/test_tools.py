"""Against the real tools, where they are installed: pip install 'anytag[integrations]'."""

from __future__ import annotations

import pickle
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anytag import Tagger
from anytag.scale.mapping import Tag

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = sorted((ROOT / "examples" / "photos").glob("*.jpg"))


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    return Tagger.load()


def array(path: Path) -> Any:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_the_package_imports_no_tool() -> None:
    script = "import sys, anytag.integrations, anytag.integrations.pipeline; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    tools = {"datasets", "fiftyone", "gradio", "supervision", "torch", "transformers"}
    assert not tools & set(done.stdout.split())


# --- FiftyOne


def test_fiftyone_gets_the_tags_and_vectors_of_the_library(tagger: Tagger) -> None:
    pytest.importorskip("fiftyone")
    from anytag.integrations.fiftyone import AnytagModel

    model = AnytagModel()
    photos = [array(path) for path in PHOTOS]
    for photo, found in zip(photos, model.predict_all(photos), strict=True):
        labels = [(one.label, one.confidence) for one in found.classifications]
        assert labels == [(tag.name, tag.score) for tag in tagger.tag(photo).tags]
    vectors = np.stack([tagger.encode(photo).pooled for photo in photos])
    np.testing.assert_array_equal(model.embed_all(photos), vectors)
    np.testing.assert_array_equal(model.embed(photos[0]), vectors[0])


def test_a_fiftyone_model_is_pickled_by_its_arguments(tagger: Tagger) -> None:
    pytest.importorskip("fiftyone")
    from anytag.integrations.fiftyone import AnytagModel

    model = AnytagModel(tags=["cat", "coffee cup"], threshold=0)
    photo = array(PHOTOS[0])
    expected = [(tag.name, tag.score) for tag in tagger.tag(photo, ["cat", "coffee cup"]).tags]
    for one in (model, pickle.loads(pickle.dumps(model))):
        assert [(tag.label, tag.confidence) for tag in one.predict(photo).classifications] == expected
    assert len(pickle.dumps(model)) < 1000


# --- supervision


def test_supervision_gets_scores_and_boxes(tagger: Tagger) -> None:
    pytest.importorskip("supervision")
    from anytag.integrations.supervision import classifications, detections

    found = tagger.tag(PHOTOS[1], where=True)
    plain = classifications(found)
    assert np.asarray(plain.confidence).tolist() == pytest.approx([tag.score for tag in found.tags])
    assert np.asarray(plain.class_id).tolist() == list(range(len(found.tags)))
    boxes = detections(found)
    located = [tag for tag in found.tags if tag.box is not None]
    assert boxes.xyxy.tolist() == [list(tag.box) for tag in located if tag.box]
    assert list(np.asarray(boxes["class_name"])) == [tag.name for tag in located]
    classes = ["dog", found.names[0]]
    assert np.asarray(classifications(found, classes).class_id).tolist() == [1]
    assert len(detections(tagger.tag(PHOTOS[1]))) == 0


# --- datasets


def test_datasets_map_gives_the_tags_of_the_library(tagger: Tagger, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"image": [str(path) for path in PHOTOS]})
    table = table.cast_column("image", datasets.Image(decode=False))
    tagged = table.map(Tag("image"), batched=True, batch_size=3, num_proc=2)
    for path, row in zip(PHOTOS, tagged, strict=True):
        assert row["tags"] == list(tagger.tag(path).names)
        assert row["error"] is None


def test_the_fingerprint_of_what_is_mapped_is_the_same_in_every_process() -> None:
    pytest.importorskip("datasets")
    script = """from datasets.fingerprint import Hasher
from anytag.scale.mapping import Tag
print(Hasher.hash(Tag("image")))"""
    prints = {
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(prints) == 1


# --- Gradio


@pytest.mark.filterwarnings("ignore")  # of what gradio stands on: pandas' to come, and its own open sockets
def test_the_space_answers_as_the_library_does(tagger: Tagger, tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    client, served = pytest.importorskip("gradio_client"), runpy.run_path(str(ROOT / "deploy/space/app.py"))
    page = served["page"]
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True)
    try:
        one = client.Client(address, verbose=False)
        for words, tags in (("", None), ("cat, coffee cup", ["cat", "coffee cup"])):
            label, caption = one.predict(client.handle_file(PHOTOS[1]), words, api_name="/look")
            found = tagger.tag(PHOTOS[1], tags)
            assert [entry["label"] for entry in label["confidences"]] == list(found.names)
            assert [entry["confidence"] for entry in label["confidences"]] == [
                tag.score for tag in found.tags
            ]
            assert caption
        (tmp_path / "no.jpg").write_bytes(b"no photo")
        with pytest.raises(Exception, match="the photo"):
            one.predict(client.handle_file(tmp_path / "no.jpg"), "", api_name="/look")
    finally:
        page.close()
