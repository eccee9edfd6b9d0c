"""PhotoPrism is a program in Go: requests are as its worker makes them, answers as its structs read them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from anytag import Captioner, Tagger
from tests.http_service import Served, serving
from tests.tiny import make_tiny_model

PHOTOS = sorted((Path(__file__).resolve().parents[2] / "examples" / "photos").glob("*.jpg"))

# Go's json.Unmarshal fails on another type: ApiResponse, Model, LabelResult and CaptionResult.
LABEL = {"name": str, "source": str, "confidence": float, "topicality": float, "categories": list}
CAPTION = {"text": str, "source": str}
MODEL = {"type": str, "name": str, "version": str, "resolution": int}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving() as one:
        yield one


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    return Tagger.load()


def data_url(photo: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(photo).decode()


def recorded(*images: str, **changes: Any) -> dict[str, Any]:
    """The body that PhotoPrism's NewApiRequestImages makes, with its fields that are always there."""
    return {
        "id": "3487da77-246e-4b4c-9437-67507177bcd7",
        "model": "anytag",
        "version": "latest",
        "suffix": "",
        "options": {"num_keep": 3, "top_p": 0.9},
        "stream": False,
        "images": list(images),
        **changes,
    }


def ask(served: Served, what: str, body: object, status: int = 200) -> Any:
    response = served.client.post(f"/api/v1/vision/{what}", json=body)
    assert response.status_code == status, response.text
    answer = response.json()
    assert answer["code"] == status
    assert isinstance(answer["result"], dict)
    if status == 200:
        assert {key: type(value) for key, value in answer["model"].items()} == MODEL
    else:
        assert isinstance(answer["error"], str) and answer["result"] == {}
    return answer


def squares(path: Path) -> list[bytes]:
    """The three squares of 224 pixels (left, centre, right) that PhotoPrism makes of a wide photo."""
    with Image.open(path) as photo:
        side = min(photo.size)
        found = []
        for k in range(3):
            left, top = (photo.width - side) * k // 2, (photo.height - side) * k // 2
            file = io.BytesIO()
            photo.crop((left, top, left + side, top + side)).resize((224, 224)).save(file, "JPEG")
            found.append(file.getvalue())
        return found


def confidences(answer: Any) -> dict[str, float]:
    return {label["name"]: label["confidence"] for label in answer["result"]["labels"]}


@pytest.mark.parametrize("path", PHOTOS, ids=lambda path: path.stem)
def test_labels_are_those_of_the_library(served: Served, tagger: Tagger, path: Path) -> None:
    answer = ask(served, "labels", recorded(data_url(path.read_bytes())))
    assert answer["id"] == "3487da77-246e-4b4c-9437-67507177bcd7"
    for label in answer["result"]["labels"]:
        assert {key: type(value) for key, value in label.items()} == LABEL
    tags = tagger.tag(path).tags or tagger.tag(path, threshold=0, top_k=1).tags
    assert confidences(answer) == {tag.name: tag.score for tag in tags}


def test_squares_of_a_photo_are_merged_by_each_tags_best_score(served: Served, tagger: Tagger) -> None:
    parts = squares(PHOTOS[0])
    expected: dict[str, float] = {}
    for part in parts:
        for tag in tagger.tag(part).tags:
            expected[tag.name] = max(tag.score, expected.get(tag.name, 0))
    answer = ask(served, "labels", recorded(*map(data_url, parts)))
    assert confidences(answer) == expected
    found = [label["confidence"] for label in answer["result"]["labels"]]
    assert found == sorted(found, reverse=True)


def test_a_square_that_cannot_be_read_does_not_harm_the_others(served: Served, tagger: Tagger) -> None:
    answer = ask(served, "labels", recorded(data_url(b"no photo"), data_url(PHOTOS[1].read_bytes())))
    assert confidences(answer) == {tag.name: tag.score for tag in tagger.tag(PHOTOS[1]).tags}


def test_plain_base64_is_taken(served: Served) -> None:
    photo = PHOTOS[0].read_bytes()
    plain = ask(served, "labels", recorded(base64.b64encode(photo).decode()))
    assert plain == ask(served, "labels", recorded(data_url(photo)))


def test_a_photo_without_a_tag_gets_the_likeliest_with_its_score(served: Served, tagger: Tagger) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (127, 127, 127)).save(file, "PNG")
    grey = file.getvalue()
    likely = tagger.tag(grey, top_k=1, threshold=0).tags[0]
    answer = ask(served, "labels", recorded(data_url(grey), data_url(grey)))
    if not tagger.tag(grey).tags:
        assert confidences(answer) == {likely.name: pytest.approx(likely.score, abs=1e-6)}
    assert 0 < answer["result"]["labels"][0]["confidence"] <= 1


def test_weak_stand_ins_vanish_beside_real_tags(served: Served, tagger: Tagger) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (127, 127, 127)).save(file, "PNG")
    answer = ask(served, "labels", recorded(data_url(file.getvalue()), data_url(PHOTOS[0].read_bytes())))
    sure = {tag.name for source in (file.getvalue(), PHOTOS[0]) for tag in tagger.tag(source).tags}
    assert confidences(answer).keys() == sure


def test_captions_are_those_of_the_library(served: Served) -> None:
    answer = ask(served, "caption", recorded(data_url(PHOTOS[0].read_bytes())))
    caption = answer["result"]["caption"]
    assert {key: type(value) for key, value in caption.items()} == CAPTION
    assert caption["text"] == Captioner.load().caption(PHOTOS[0]).text
    assert "labels" not in answer["result"]


def test_the_path_may_name_the_model_that_runs_and_no_other(served: Served, tagger: Tagger) -> None:
    body = recorded(data_url(PHOTOS[0].read_bytes()))
    card = tagger.card
    for version in ("latest", card.version):
        assert ask(served, f"labels/{card.name}/{version}", body)["model"]["name"] == card.name
    for path in ("labels/nasnet/latest", f"caption/{card.name}/99"):
        assert card.name in ask(served, path, body, 404)["error"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (recorded(images=[], url="https://example.com/a.jpg"), "URLs are not fetched"),
        (recorded("https://example.com/a.jpg"), "URLs are not fetched"),
        (recorded("http://127.0.0.1:1/a,b"), "URLs are not fetched"),
        (recorded("file:///etc/passwd"), "URLs are not fetched"),
        (recorded("data:image/jpeg,plain"), "base64"),
        (recorded("data:image/jpeg;base64,***"), "base64"),
        (recorded("ünicode"), "base64"),
        (recorded(), "no photo"),
        (recorded(*["AAAA"] * 257), "the limit is 256"),
        (recorded(data_url(b"no photo")), "not"),
        (recorded(images="AAAA"), "images"),
        (recorded(id=5), "id"),
        ([], "body"),
    ],
)
def test_a_wrong_request_is_an_error_that_photoprism_can_read(
    served: Served, body: object, says: str
) -> None:
    for what in ("labels", "caption"):
        assert says in ask(served, what, body, 422)["error"]
    assert served.client.get("/readyz").status_code == 200


def test_a_body_that_is_no_json_is_an_error_that_photoprism_can_read(served: Served) -> None:
    for body in (
        b"",
        b"{",
        b"[" * 100_000,
        b'{"id":' + b"9" * 10_000 + b"}",
        b'{"id":"\\ud800","images":["AAAA"]}',
    ):
        response = served.client.post(
            "/api/v1/vision/labels", content=body, headers={"content-type": "application/json"}
        )
        answer = response.json()
        assert response.status_code == answer["code"] < 500
        assert isinstance(answer["error"], str) and answer["result"] == {}


def test_a_model_without_captions_says_so(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "tiny")
    with serving(model=str(model)) as one:
        body = recorded(data_url(PHOTOS[0].read_bytes()))
        assert "writes no captions" in ask(one, "caption", body, 422)["error"]
        assert ask(one, "labels", body)["result"]["labels"]


def test_a_wrong_key_is_an_error_that_photoprism_can_read(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "tiny")
    with serving(model=str(model), key="secret") as one:
        assert "key" in ask(one, "labels", recorded(), 401)["error"]
