from __future__ import annotations

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from anytag import Captioner, Tagger
from tests.http_service import EXAMPLE_JPEG, Served, serving

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = sorted((ROOT / "examples" / "photos").glob("*.jpg"))


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving() as one:
        yield one


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    return Tagger.load()


def expected(tagger: Tagger, photo: Path | bytes, **options: Any) -> Any:
    row = json.loads(json.dumps(tagger.tag(photo, **options).to_dict()))
    del row["path"]
    return row


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what only the server adds."""
    tags = [{key: tag[key] for key in tag if key not in ("parents", "heat")} for tag in row["tags"]]
    return {key: value for key, value in row.items() if key != "name"} | {"tags": tags}


def png(seed: int, size: tuple[int, int] = (40, 30)) -> bytes:
    rng = np.random.default_rng(seed)
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of 19,000² in a few kilobytes."""
    file = io.BytesIO()
    Image.new("1", (19_000, 19_000)).save(file, "PNG", optimize=False)
    return file.getvalue()


# --- tags


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tags": ["dog", "red saucer: a small round plate in red"]},
        {"also": ["sleeping cat"], "top_k": 3},
        {"threshold": 0.2},
        {"where": True},
    ],
    ids=str,
)
def test_answers_are_those_of_the_library_to_the_last_digit(
    served: Served, tagger: Tagger, options: dict[str, Any]
) -> None:
    for photo in PHOTOS[:3]:
        assert plain(served.tag(photo.read_bytes(), **options)) == expected(tagger, photo, **options)


def test_answers_are_the_same_in_any_batch(served: Served, tagger: Tagger) -> None:
    photos = PHOTOS * 4
    with ThreadPoolExecutor(16) as pool:
        rows = list(pool.map(served.tag, [photo.read_bytes() for photo in photos]))
    assert [plain(row) for row in rows] == [expected(tagger, photo) for photo in photos]


def test_a_form_takes_many_photos_and_options(served: Served, tagger: Tagger) -> None:
    files = [("files", (photo.name, photo.read_bytes(), "image/jpeg")) for photo in PHOTOS]
    response = served.client.post("/v1/tag", files=files, data={"tags": ["dog", "cat"], "top_k": "1"})
    rows = response.json()["photos"]
    assert [row["name"] for row in rows] == [photo.name for photo in PHOTOS]
    assert [plain(row) for row in rows] == [
        expected(tagger, photo, tags=["dog", "cat"], top_k=1) for photo in PHOTOS
    ]


def test_a_bad_photo_harms_only_itself(served: Served, tagger: Tagger) -> None:
    good = [png(seed) for seed in range(26)]
    whole = PHOTOS[0].read_bytes()
    animated = io.BytesIO()
    Image.new("L", (1, 1)).save(animated, "GIF")
    bad = [
        b"",
        b"text, no photo",
        whole[: len(whole) // 3],
        bomb(),
        b"\xff\xd8\xff\xe0" + b"\0" * 90,
        b"GIF89a",
    ]
    files = [("files", (f"{n}", data, "image/png")) for n, data in enumerate([*good[:13], *bad, *good[13:]])]
    rows = served.client.post("/v1/tag", files=files).json()["photos"]
    errors = [row for row in rows if row["error"] is not None]
    assert len(rows) == 32 and len(errors) == 6
    assert {row["error"]["type"] for row in errors} == {"ImageError"}
    assert [plain(row) for row in rows if row["error"] is None] == [expected(tagger, one) for one in good]
    assert served.client.get("/readyz").json() == {"status": "ok"}


@pytest.mark.parametrize("size", [(1, 1), (1, 4000)])
def test_a_photo_of_odd_size_is_tagged(served: Served, tagger: Tagger, size: tuple[int, int]) -> None:
    photo = png(1, size)
    assert plain(served.tag(photo)) == expected(tagger, photo)


def test_heat_maps_and_broader_tags(served: Served, tagger: Tagger) -> None:
    photo = ROOT / "examples" / "photos" / "cat.jpg"
    row = served.tag(photo.read_bytes(), heat=True)
    found = tagger.tag(photo, where=True)
    for tag, ours in zip(row["tags"], found.tags, strict=True):
        assert ours.heat is not None
        np.testing.assert_allclose(tag["heat"], ours.heat, atol=5e-4)
    by_id = {tag["id"]: tag for tag in row["tags"]}
    assert "animal" in by_id["cat"]["parents"]


def test_captions_are_those_of_the_library(served: Served) -> None:
    captioner = Captioner.load()
    files = [("files", (photo.name, photo.read_bytes())) for photo in (*PHOTOS[:2], ROOT / "README.md")]
    rows = served.client.post("/v1/caption", files=files).json()["photos"]
    for row, photo in zip(rows[:2], PHOTOS, strict=False):
        assert (row["text"], row["tags"]) == (
            captioner.caption(photo).text,
            list(captioner.caption(photo).tags),
        )
    assert rows[2]["error"]["type"] == "ImageError"
    guided = served.client.post(
        "/v1/caption", content=PHOTOS[0].read_bytes(), params={"tags": ["dog"]}, headers=EXAMPLE_JPEG
    )
    assert guided.json()["photos"][0]["text"] == captioner.caption(PHOTOS[0], ["dog"]).text
    free = served.client.post("/v1/caption", data={"tags": ""}, files=files[:1])
    assert free.json()["photos"][0]["text"] == captioner.caption(PHOTOS[0], []).text


# --- wrong requests

FILE = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nno photo\r\n'


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"threshold": "2"}, "threshold"),
        ({"threshold": "nan"}, "threshold"),
        ({"top_k": "0"}, "top_k"),
        ({"tresh": "1"}, "tresh"),
        ({"tags": ""}, "tag"),
        ({"tags": "x" * 1001}, "1000 characters"),
        ({"also": "a: " + "b;" * 20 + "c"}, "20 descriptions"),
        ({"tags": "dog", "also": "cat"}, "both tags and also"),
        ({"top_k": ["1", "3"]}, "top_k was given 2 times"),
    ],
)
def test_a_wrong_option_is_named(served: Served, query: dict[str, str], says: str) -> None:
    response = served.client.post("/v1/tag", content=png(0), params=query, headers=EXAMPLE_JPEG)
    assert response.status_code == 422
    assert says in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"content-type": "text/plain"}, b"x", 415),
        ({"content-type": "application/json"}, b"{}", 415),
        ({"content-type": "multipart/form-data"}, b"x", 400),
        ({"content-type": "multipart/form-data; boundary=x"}, b"nonsense", 400),
        ({"content-type": "multipart/form-data; boundary=x"}, b"--x--\r\n", 422),
        ({"content-type": "multipart/form-data; boundary=x"}, b"", 400),
        ({"content-type": "multipart/form-data; boundary=x"}, FILE, 400),
        ({"content-type": "multipart/form-data; boundary=x"}, FILE * 257 + b"--x--\r\n", 400),
        ({"content-type": "multipart/form-data; boundary=x; charset=unicode_escape"}, b"--x--\r\n", 415),
        (EXAMPLE_JPEG, b"", 422),
        (EXAMPLE_JPEG, b"no photo", 422),
    ],
)
def test_what_is_no_photo_is_refused(
    served: Served, headers: dict[str, str], body: bytes, status: int
) -> None:
    response = served.client.post("/v1/tag", content=body, headers=headers)
    assert response.status_code == status, response.text
    assert response.json()["error"]["message"]


FORM = "multipart/form-data; boundary=x"
NAMELESS = b'--x\r\nContent-Disposition: form-data; name="files"\r\n\r\n\xff\xd8\r\n--x--\r\n'


@pytest.mark.parametrize(
    ("kind", "body", "query", "says"),
    [
        ("application/x-www-form-urlencoded", PHOTOS[0].read_bytes(), "", "content type image/jpeg"),
        (FORM, NAMELESS, "", "files=@photo.jpg"),
        (FORM, FILE + b"--x--\r\n", "?top_k=1", "'top_k' is in the query: send it as a field of the form"),
        (FORM, FILE + b"--x--\r\n", "", "a: "),
        (FORM, FILE.replace(b"no photo", b"") + b"--x--\r\n", "", "a: is empty"),
        ("image/jpeg", b"no photo", "", "the photo is not"),
    ],
)
def test_a_mistake_is_explained(served: Served, kind: str, body: bytes, query: str, says: str) -> None:
    response = served.client.post(f"/v1/tag{query}", content=body, headers={"content-type": kind})
    message = response.json()["error"]["message"]
    assert response.status_code == 422 and says in message, message
    assert message.isprintable() and "<bytes>" not in message and len(message) < 400


def test_errors_do_not_tell_where_files_lie(served: Served) -> None:
    response = served.client.post("/v1/tag", content=b"no photo", headers=EXAMPLE_JPEG)
    assert "/" not in response.json()["error"]["message"]
    assert served.client.get("/v1/nothing").json() == {
        "error": {"type": "path", "message": "GET /v1/nothing: Not Found; /openapi.json lists the routes"}
    }
    for path in ("/page/../app.py", "/page/%2e%2e/app.py", "/page//etc/passwd"):
        assert served.client.get(path).status_code == 404


# --- the rest


def test_which_model_answers(served: Served, tagger: Tagger) -> None:
    (model,) = served.client.get("/v1/models").json()["models"]
    assert model["name"] == tagger.card.name
    assert model["tags"] == len(tagger.vocabulary)


def test_tags_are_suggested_while_one_types(served: Served) -> None:
    tags = served.client.get("/v1/tags", params={"text": "hund"}).json()["tags"]
    assert tags[0] == {"name": "dog", "by": "Hund"}
    assert len(served.client.get("/v1/tags").json()["tags"]) == 20
    assert served.client.get("/v1/tags", params={"text": "x" * 101}).status_code == 422


def test_metrics_are_read_by_prometheus(served: Served) -> None:
    served.tag(png(3))
    served.client.get("/nothing-of-the-kind")
    text = served.client.get("/metrics").text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert {"anytag_requests", "anytag_refused", "anytag_queue_depth", "anytag_batch_size"} <= families.keys()
    routes = {sample.labels["route"] for sample in families["anytag_requests"].samples}
    assert "/v1/tag" in routes
    assert not any("nothing-of-the-kind" in route for route in routes)


def test_every_answer_forbids_what_the_page_does_not_need(served: Served) -> None:
    for path in ("/", "/page/main.js", "/v1/models", "/missing"):
        headers = served.client.get(path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers


def test_the_committed_description_of_the_api_is_what_runs(tmp_path: Path) -> None:
    committed = json.loads((ROOT / "docs" / "reference" / "openapi.json").read_text(encoding="utf-8"))
    with serving(has_library=True, library=tmp_path / "library.db") as one:
        assert one.client.get("/openapi.json").json() == committed, "run python scripts/build_docs.py"
