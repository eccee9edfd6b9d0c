"""Requests are those that Label Studio 1.23 sends (label_studio/ml/api_connector.py), recorded from it."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from anytag import Failure, Tagger
from anytag.server.label_studio import file_name, read_photo
from anytag.server.settings import Settings
from tests.http_service import Served, serving

PHOTOS = sorted((Path(__file__).resolve().parents[2] / "examples" / "photos").glob("*.jpg"))
CONFIG = """<View>
  <Image name="photo" value="$image"/>
  <Choices name="what" toName="photo" choice="{choice}" showInLine="true">
    <Choice value="Cat"/><Choice value="dog"/><Choice value="coffee cup" alias="cup"/><Choice value="N/A"/>
  </Choices>
</View>"""
NAMES = {"Cat": "Cat", "dog": "dog", "coffee cup": "cup", "N/A": "N/A"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Label Studio's document root, its uploads, and a secret beside it."""
    root = tmp_path_factory.mktemp("studio")
    (root / "docs" / "trip").mkdir(parents=True)
    (root / "media" / "upload" / "1").mkdir(parents=True)
    for path in PHOTOS:
        shutil.copy(path, root / "docs" / "trip" / path.name)
        shutil.copy(path, root / "media" / "upload" / "1" / f"a b-{path.name}")
    (root / "secret.jpg").write_bytes(PHOTOS[0].read_bytes() + b"secret")
    (root / "docs" / "link.jpg").symlink_to(root / "secret.jpg")
    os.mkfifo(root / "docs" / "pipe.jpg")
    return root


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    with serving(label_studio=(folder / "docs", folder / "media")) as one:
        yield one


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    return Tagger.load()


def body(*sources: object, choice: str = "multiple", config: str | None = None) -> dict[str, Any]:
    return {
        "tasks": [
            {"id": n, "data": {"image": source}, "meta": {}, "overlap": 1, "project": 1}
            for n, source in enumerate(sources)
        ],
        "project": "1.1795920000",
        "label_config": CONFIG.format(choice=choice) if config is None else config,
        "params": {"login": None, "password": None, "context": None},
    }


def predict(served: Served, asked: dict[str, Any], status: int = 200) -> Any:
    response = served.client.post("/label-studio/predict", json=asked)
    assert response.status_code == status, response.text
    return response.json()


def local(path: Path) -> str:
    return f"/data/local-files/?d=trip/{path.name}"


def scores(tagger: Tagger, path: Path) -> dict[str, float]:
    return {tag.name: tag.score for tag in tagger.tag(path, list(NAMES)).tags}


def test_health_setup_versions_and_webhook(served: Served, tagger: Tagger) -> None:
    version = f"{tagger.card.name} {tagger.card.version}"
    assert served.client.get("/label-studio/health").json()["status"] == "UP"
    asked = {
        "project": "1.1",
        "schema": CONFIG,
        "hostname": "http://x",
        "access_token": "t",
        "extra_params": None,
    }
    assert served.client.post("/label-studio/setup", json=asked).json() == {"model_version": version}
    assert served.client.get("/label-studio/versions").json() == {"versions": [version]}
    event = served.client.post("/label-studio/webhook", json={"action": "START_TRAINING", "project": {}})
    assert event.status_code == 201


def test_several_choices_are_those_that_are_likelier_than_not(served: Served, tagger: Tagger) -> None:
    answer = predict(served, body(*map(local, PHOTOS)))
    assert len(answer["results"]) == len(PHOTOS)
    for path, row in zip(PHOTOS, answer["results"], strict=True):
        expected = scores(tagger, path)
        chosen = [NAMES[name] for name in NAMES if expected[name] >= 0.5]
        assert [one["value"]["choices"] for one in row["result"]] == ([chosen] if chosen else [])
        assert row["score"] == pytest.approx(min(max(one, 1 - one) for one in expected.values()))
        assert row["model_version"] == answer["model_version"]
        for one in row["result"]:
            assert (one["from_name"], one["to_name"], one["type"]) == ("what", "photo", "choices")


def test_one_choice_is_the_likeliest(served: Served, tagger: Tagger) -> None:
    answer = predict(served, body(*map(local, PHOTOS), choice="single"))
    for path, row in zip(PHOTOS, answer["results"], strict=True):
        expected = scores(tagger, path)
        best = max(NAMES, key=expected.__getitem__)
        assert row["result"][0]["value"] == {"choices": [NAMES[best]]}
        assert row["score"] == pytest.approx(expected[best])


def test_a_photo_is_found_by_every_url_that_label_studio_uses(served: Served) -> None:
    name = PHOTOS[0].name
    sources = [
        local(PHOTOS[0]),
        f"/data/local-files/?d=trip%2F{name}",
        f"http://localhost:8080/data/local-files/?d=trip/{name}",
        f"https://example.com/studio/data/upload/1/a%20b-{name}",
        f"/data/upload/1/a%20b-{name}",
        f"/data/upload/1/a b-{name}",
        "data:image/jpeg;base64," + base64.b64encode(PHOTOS[0].read_bytes()).decode(),
    ]
    first, *others = predict(served, body(*sources))["results"]
    assert first["score"] > 0 and all(other == first for other in others)


@pytest.mark.parametrize(
    "source",
    [
        "/data/local-files/?d=../secret.jpg",
        "/data/local-files/?d=%2e%2e/secret.jpg",
        "/data/local-files/?d=link.jpg",
        "/data/local-files/?d=/etc/passwd",
        "/data/local-files/?d=pipe.jpg",
        "/data/local-files/?d=trip",
        "/data/local-files/?d=%00",
        "/data/local-files/?d=",
        "/data/local-files/",
        "/data/upload/../../secret.jpg",
        "/data/upload/%2e%2e/%2e%2e/secret.jpg",
        "/etc/passwd",
        "secret.jpg",
        "http://127.0.0.1:1/photo.jpg",
        "http://[::1/data/upload/1/x",
        "file:///etc/passwd",
        "s3://bucket/photo.jpg",
        "data:image/jpeg;base64,***",
        "",
        None,
        5,
        {"a": 1},
    ],
    ids=str,
)
def test_nothing_outside_the_folders_is_read_and_no_url_fetched(
    served: Served, folder: Path, source: object
) -> None:
    good, bad = predict(served, body(local(PHOTOS[0]), source))["results"]
    assert good["score"] > 0
    assert "result" not in bad and bad["error"]["type"] == "ImageError"
    assert str(folder) not in bad["error"]["message"]


def test_a_broken_photo_harms_only_itself(served: Served, folder: Path) -> None:
    (folder / "docs" / "broken.jpg").write_bytes(PHOTOS[0].read_bytes()[:500])
    sources = [local(PHOTOS[0])] * 10 + ["/data/local-files/?d=broken.jpg"] + [local(PHOTOS[0])] * 10
    rows = predict(served, body(*sources))["results"]
    assert [n for n, row in enumerate(rows) if "error" in row] == [10]


def test_two_controls_of_two_images(served: Served) -> None:
    config = """<View><Image name="a" value="$first"/><Image name="b" value="$second"/>
      <Choices name="x" toName="a"><Choice value="dog"/><Choice value="cat"/></Choices>
      <Choices name="y" toName="b"><Choice value="dog"/><Choice value="cat"/></Choices></View>"""
    asked = body("", config=config)
    asked["tasks"][0]["data"] = {"first": local(PHOTOS[0]), "second": local(PHOTOS[1])}
    (row,) = predict(served, asked)["results"]
    assert [(one["from_name"], one["to_name"]) for one in row["result"]] == [("x", "a"), ("y", "b")]


BOMB = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><View>&b;</View>'


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("", "not valid XML"),
        ("<View>", "not valid XML"),
        (BOMB, "DOCTYPE"),
        ("<View/>", "no choices about an image"),
        (
            '<View><Text name="t"/><Choices name="c" toName="t"><Choice value="x"/></Choices></View>',
            "no choices about an image",
        ),
        ('<View><Image name="i" value="$i"/><Choices name="c" toName="i" value="$c"/></View>', "no choices"),
        (
            '<View><Image name="i" value="$i"/><Choices name="c" toName="i">'
            + "".join(f'<Choice value="tag {n}"/>' for n in range(1001))
            + "</Choices></View>",
            "limit",
        ),
    ],
    ids=lambda value: value[:20],
)
def test_a_label_config_that_cannot_be_predicted_is_said(served: Served, config: str, says: str) -> None:
    assert says in predict(served, body(local(PHOTOS[0]), config=config), 422)["error"]["message"]
    setup = served.client.post("/label-studio/setup", json={"project": "1.1", "schema": config})
    assert setup.status_code == 422 and says in setup.json()["error"]["message"]


@pytest.mark.parametrize("depth", [1000, 100_000])
def test_a_deep_label_config_or_body_breaks_nothing(served: Served, depth: int) -> None:
    config = "<a>" * depth + "</a>" * depth
    assert "no choices" in predict(served, body(config=config), 422)["error"]["message"]
    deep = b'{"a":' * depth + b"1" + b"}" * depth
    headers = {"content-type": "application/json"}
    assert served.client.post("/label-studio/webhook", content=deep, headers=headers).status_code < 500
    assert served.client.get("/readyz").status_code == 200


def test_the_key_may_come_as_a_password(folder: Path) -> None:
    with serving(label_studio=(folder,), key="se:cret") as one:
        assert one.client.get("/label-studio/health").status_code == 401
        for wrong in (("any", "secret"), ("se:cret", "")):
            assert one.client.get("/label-studio/health", auth=wrong).status_code == 401
        headers = {"authorization": "Basic ***"}
        assert one.client.get("/label-studio/health", headers=headers).status_code == 401
        assert one.client.get("/label-studio/health", auth=("any", "se:cret")).status_code == 200


def test_without_a_folder_the_routes_are_not_there() -> None:
    with serving() as one:
        assert one.client.get("/label-studio/health").status_code == 404


def test_files_are_named_by_the_path_alone() -> None:
    assert file_name("/data/upload/3/x.jpg?y=1") == "upload/3/x.jpg"
    assert file_name("/data/local-files/?d=//a/b.jpg") == "a/b.jpg"
    assert file_name("/photos/x.jpg") == ""


PARTS = ["..", ".", "trip", "/", "secret.jpg", "link.jpg", "%2e%2e", "%2f", "\0", "~", "?d=", "&", "#", "\\"]


@examples(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([*PARTS, *(path.name for path in PHOTOS[:2])])))
def test_no_url_leads_out_of_the_folders(folder: Path, parts: list[str]) -> None:
    settings = Settings(label_studio=(folder / "docs", folder / "media"))
    inside = {path.read_bytes() for path in PHOTOS}
    for start in ("/data/upload/", "/data/local-files/?d=", "/data/local-files/?d=trip/"):
        found = read_photo(start + "/".join(parts), settings)
        assert isinstance(found, Failure) or found in inside
