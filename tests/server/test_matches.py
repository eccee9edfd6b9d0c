from __future__ import annotations

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from anytag import Retriever
from tests.command import run
from tests.http_service import EXAMPLE_JPEG, Served, serving
from tests.tiny import make_tiny_model

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = sorted((ROOT / "examples" / "photos").glob("*.jpg"))
TEXTS = ["a cup of coffee on a table", "a cat", "people at the beach zzyzx"]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving() as one:
        yield one


def match(served: Served, files: list[tuple[str, bytes]], **data: Any) -> Any:
    response = served.client.post("/v1/match", files=[("files", file) for file in files], data=data)
    assert response.status_code == 200, response.text
    return response.json()


def named(photos: list[Path]) -> list[tuple[str, bytes]]:
    return [(str(photo), photo.read_bytes()) for photo in photos]


def rows(answer: Any) -> list[dict[str, Any]]:
    return [
        {"path": match["name"], "text": text["text"], "score": match["score"]}
        for text in answer["texts"]
        for match in text["matches"]
    ]


def test_every_pair_has_the_score_of_the_retriever(served: Served) -> None:
    retriever = Retriever.load()
    ranking = retriever.ranking(TEXTS, top_k=None)
    list(ranking.add(PHOTOS))
    answer = match(served, named(PHOTOS), texts=TEXTS)
    expected = [one.to_dict() for best in ranking.matches() for one in best]
    assert rows(answer) == expected
    assert len(expected) == len(TEXTS) * len(PHOTOS)
    assert [text["unknown_words"] for text in answer["texts"]] == [[], [], ["zzyzx"]]
    gallery = retriever.embed(PHOTOS)
    for text in TEXTS:
        alone = [one.to_dict() for one in retriever.rank(gallery, text, top_k=None)]
        assert rows(match(served, named(PHOTOS), texts=text)) == alone
    for text in answer["texts"]:
        assert all(answer["photos"][one["photo"]]["name"] == one["name"] for one in text["matches"])


def test_the_ranking_is_that_of_the_command(served: Served) -> None:
    texts = [word for text in TEXTS for word in ("--text", text)]
    done = run("match", *texts, "--top-k", "3", "--format", "jsonl", *map(str, PHOTOS))
    answer = match(served, named(PHOTOS), texts=TEXTS, top_k="3")
    assert rows(answer) == [json.loads(line) for line in done.stdout.splitlines()]


def test_a_photo_alone_is_the_body(served: Served) -> None:
    done = run("match", "--text", TEXTS[0], "--text", TEXTS[1], "--format", "jsonl", str(PHOTOS[0]))
    response = served.client.post(
        "/v1/match", content=PHOTOS[0].read_bytes(), params={"texts": TEXTS[:2]}, headers=EXAMPLE_JPEG
    )
    scores = [text["matches"][0]["score"] for text in response.json()["texts"]]
    assert scores == [json.loads(line)["score"] for line in done.stdout.splitlines()]


def test_more_photos_than_go_together_at_the_same_time(served: Served) -> None:
    many = [(f"{number}", PHOTOS[number % len(PHOTOS)].read_bytes()) for number in range(20)]
    retriever = Retriever.load()
    ranking = retriever.ranking(TEXTS, top_k=None)
    list(ranking.add([data for _, data in many]))
    expected = [[one.score for one in best] for best in ranking.matches()]
    with ThreadPoolExecutor(3) as pool:
        for answer in pool.map(lambda _: match(served, many, texts=TEXTS), range(3)):
            assert [[one["score"] for one in text["matches"]] for text in answer["texts"]] == expected


def test_a_photo_that_cannot_be_read_is_not_ranked(served: Served) -> None:
    pixel = io.BytesIO()
    Image.new("L", (1, 1)).save(pixel, "PNG")
    answer = match(served, [("bad", b"no photo"), ("good", pixel.getvalue())], texts=["a cat"])
    assert [photo["error"] and photo["error"]["type"] for photo in answer["photos"]] == ["ImageError", None]
    assert [one["photo"] for one in answer["texts"][0]["matches"]] == [1]
    none = match(served, [("bad", b"no photo"), ("too", b"nor this")], texts=["a cat"])
    assert none["texts"][0]["matches"] == []
    alone = served.client.post("/v1/match", content=b"x", params={"texts": "a"}, headers=EXAMPLE_JPEG)
    assert alone.status_code == 422


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({}, "texts"),
        ({"texts": ""}, "text"),
        ({"texts": "x" * 1001}, "1000"),
        ({"texts": ["a cat"] * 101}, "100"),
        ({"texts": "a cat", "top_k": "0"}, "top_k"),
        ({"texts": "a cat", "text": "a dog"}, "text"),
    ],
)
def test_wrong_options_are_named(served: Served, query: dict[str, Any], says: str) -> None:
    response = served.client.post(
        "/v1/match", content=PHOTOS[0].read_bytes(), params=query, headers=EXAMPLE_JPEG
    )
    assert response.status_code == 422
    assert says in response.json()["error"]["message"]


def test_a_model_that_cannot_match_says_why(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "tiny")
    card = json.loads((model / "card.json").read_text())
    card["text"] = None
    (model / "card.json").write_text(json.dumps(card))
    with serving(model=str(model)) as one:
        response = one.client.post(
            "/v1/match", content=PHOTOS[0].read_bytes(), params={"texts": "a"}, headers=EXAMPLE_JPEG
        )
        assert response.status_code == 422
        assert "alignment heads" in response.json()["error"]["message"]
