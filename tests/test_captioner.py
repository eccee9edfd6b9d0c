"""Captions of random weights: what guides them, what they must not say, how they come."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anytag import AnytagError, Captioner, ImageError, ModelError, TagResult, VocabularyError
from anytag.caption_check import EMPTY
from tests.captions import make_caption_model
from tests.command import run
from tests.tiny import make_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_caption_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def captioner(model: Path) -> Captioner:
    return Captioner.load(model, device="cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"{i}.png" for i in range(5)]
    for i, path in enumerate(paths):
        coarse = np.random.default_rng(i).integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(coarse).resize((32, 24)).save(path)
    return paths


def test_a_caption_is_text_about_a_photo(captioner: Captioner, photos: list[Path]) -> None:
    caption = captioner.caption(photos[0])
    assert (caption.path, caption.width, caption.height) == (str(photos[0]), 32, 24)
    assert (caption.model, caption.error) == ("tiny", None)
    assert caption.text
    assert not caption.text.startswith("a ") or not caption.text.startswith("a a ")
    assert caption.tags == captioner.tagger.tag(photos[0]).names
    assert caption.to_dict() == {
        "path": str(photos[0]), "width": 32, "height": 24, "model": "tiny",
        "text": caption.text, "tags": list(caption.tags), "error": None,
    }  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"beams": 1}, {"sample": True, "seed": 3}, {"tags": ["dog", "sea"]}])
@pytest.mark.parametrize("batch_size", [2, 5])
def test_many_photos_get_what_each_gets_alone(
    captioner: Captioner, photos: list[Path], options: dict[str, Any], batch_size: int
) -> None:
    alone = [captioner.caption(path, **options) for path in photos]
    many = list(captioner.caption_many(photos, batch_size=batch_size, workers=2, **options))
    assert many == alone
    assert len({caption.text for caption in alone}) > 1


def test_tags_guide(captioner: Captioner, photos: list[Path]) -> None:
    free = captioner.caption(photos[0], [])
    asked = captioner.caption(photos[0], ["grass", "big white sea"])
    assert (free.tags, asked.tags) == ((), ("grass", "big white sea"))
    assert free.text != asked.text


def test_a_caption_names_a_given_tag_even_if_none_is_confident(
    captioner: Captioner, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (encoded,) = captioner.tagger.encode_many(photos[:1])
    given = [tag.name for tag in captioner.tagger.score(encoded).tags]
    monkeypatch.setattr(captioner, "spec", replace(captioner.spec, guide=2.0, support=1e-9, sure=2.0))
    named = []
    for name in given:
        monkeypatch.setattr(captioner, "_texts", lambda *_, text=f"so {name}": [text])
        named.append(captioner.write([encoded])[0].text)
    assert f"so {given[0]}" in named
    monkeypatch.setattr(captioner, "_texts", lambda *_: ["so what"])
    assert captioner.write([encoded])[0].text.startswith("a photo of ")


def test_a_caption_says_nothing_where_no_tag_is_likely(
    captioner: Captioner, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (encoded,) = captioner.tagger.encode_many(photos[:1])
    score = captioner.tagger.score
    name = score(encoded).tags[0].name

    def unlikely(*args: Any, **options: Any) -> TagResult:
        found = score(*args, **options)
        return replace(found, tags=tuple(replace(tag, score=tag.score * 0.49) for tag in found.tags))

    monkeypatch.setattr(captioner, "spec", replace(captioner.spec, guide=2.0, support=1e-9))
    monkeypatch.setattr(captioner, "_texts", lambda *_: [f"a {name} on a table"])
    monkeypatch.setattr(captioner.tagger, "score", unlikely)
    assert captioner.write([encoded])[0].text == EMPTY


def test_recognised_tags_guide_as_the_card_says(captioner: Captioner, photos: list[Path]) -> None:
    (encoded,) = captioner.tagger.encode_many(photos[:1])
    scores = {tag.name: tag.score for tag in captioner.tagger.score(encoded).tags}
    assert scores
    spec = captioner.spec
    try:
        for guide in (0.0, sorted(scores.values())[-1], 1.5):
            captioner.spec = type(spec)(**{**{f: getattr(spec, f) for f in spec.__slots__}, "guide": guide})
            (caption,) = captioner.write(iter([encoded]))
            assert caption.tags == tuple(name for name, score in scores.items() if score >= guide)
    finally:
        captioner.spec = spec


def test_what_is_excluded_is_not_said_in_any_form(captioner: Captioner, photos: list[Path]) -> None:
    said = " ".join(caption.text for caption in captioner.caption_many(photos)).split()
    words = sorted({word for word in said if word in {"dogs", "runs", "sea", "plays", "jumps", "sits"}})
    for word in (*words, "dog", "running"):
        for caption in captioner.caption_many(photos, exclude_tags=[word]):
            assert word not in caption.text.split()
            assert word not in caption.tags
    for caption in captioner.caption_many(photos, exclude_tags=["dog"]):
        assert not {"dog", "dogs", "puppy"} & set(caption.text.split())  # a synonym of the vocabulary's


def test_what_is_narrower_is_excluded_too(captioner: Captioner) -> None:
    def forbidden(*words: str) -> set[str]:
        return {captioner.pieces.decode(ids) for ids in captioner._forbidden(words)}

    assert {"animal", "dog", "cat", "puppy", "dogs"} <= forbidden("animal") | {"animal"}
    assert {"dog", "dogs", "puppy"} <= forbidden("Hund")
    assert captioner._request(exclude_tags=["dogs", "red cars", "dog"]).exclude_tags == ("dog", "red car")
    assert "animal" not in forbidden("dog")
    for guides in (["dog", "Puppy", "sea"], ["sea"]):
        caption = captioner.caption(np.zeros((8, 8, 3), np.uint8), guides, exclude_tags=["animal"])
        assert caption.tags == ("sea",)


def test_the_graph_says_how_long_a_caption_may_be(captioner: Captioner) -> None:
    black, longest = np.zeros((8, 8, 3), np.uint8), captioner._max_wordpieces
    assert longest >= captioner.spec.max_length
    assert captioner.caption(black, max_length=longest, min_length=longest).text
    for length in (longest + 1, 10**9):
        with pytest.raises(
            AnytagError, match=f"max_length is {length}: this model has positions for {longest} "
        ):
            captioner.caption(black, max_length=length)


def test_many_beams_write_what_few_photos_at_a_time_write(captioner: Captioner, photos: list[Path]) -> None:
    many = list(captioner.caption_many(photos, beams=20, batch_size=5))  # 100 rows: more than go together
    assert many == [captioner.caption(path, beams=20) for path in photos]


def test_lengths(captioner: Captioner, photos: list[Path]) -> None:
    short = captioner.caption(photos[0], max_length=5).text.split()
    assert len(short) <= 4
    assert captioner.caption(photos[0], max_length=12, min_length=12).text


def test_a_photo_that_fails_is_reported_and_the_rest_is_done(
    captioner: Captioner, photos: list[Path]
) -> None:
    given: list[str | Path] = [photos[0], "missing.jpg", photos[1]]
    first, failed, last = captioner.caption_many(given)
    assert first.text
    assert last.text
    assert failed.text == ""
    assert failed.error is not None
    assert failed.error.type == "ImageError"
    with pytest.raises(ImageError, match="missing"):
        list(captioner.caption_many(given, on_error="raise"))
    with pytest.raises(ImageError, match="missing"):
        captioner.caption("missing.jpg")


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"tags": "dog"}, VocabularyError, r"tags=\['dog'\]"),
        ({"exclude_tags": "dog"}, VocabularyError, r"exclude_tags is 'dog': .* exclude_tags=\['dog'\]"),
        ({"tags": ["dog", " "]}, VocabularyError, "tags contains ' '"),
        ({"beams": 0}, AnytagError, "beams is 0"),
        ({"max_length": 1}, AnytagError, "max_length"),
        ({"beams": 100_000}, AnytagError, "beams is 100000: .* 100 at most"),
        ({"beams": 2.5}, AnytagError, "beams is 2.5"),
        ({"beams": True}, AnytagError, "beams is True"),
        ({"seed": -1}, AnytagError, "seed is -1"),
        ({"seed": None}, AnytagError, "seed is None"),
        ({"sample": "yes"}, AnytagError, "sample is 'yes'"),
        ({"max_length": "20"}, AnytagError, "max_length is '20'"),
        ({"max_length": 2.5}, AnytagError, "max_length is 2.5"),
        ({"min_length": -1}, AnytagError, "min_length is -1"),
        ({"max_length": -1}, AnytagError, "max_length is -1"),
        ({"tags": [1]}, VocabularyError, "tags contains 1"),
        ({"tags": 5}, VocabularyError, r"tags is 5: .* tags=\['red car'\]"),
        ({"exclude_tags": [None]}, VocabularyError, "exclude_tags contains None"),
        ({"exclude_tags": None}, VocabularyError, "exclude_tags is None"),
        ({"min_length": 40}, AnytagError, "min_length is 40"),
        ({"on_error": "ignore"}, AnytagError, "on_error is 'ignore'"),
    ],
)
def test_wrong_wishes_are_named_before_the_first_photo(
    captioner: Captioner, options: dict[str, Any], error: type[AnytagError], says: str
) -> None:
    with pytest.raises(error, match=says):
        list(captioner.caption_many([np.zeros((8, 8, 3), np.uint8)], **options))


def test_a_model_without_captions_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="tiny has no caption head"):
        Captioner.load(make_tiny_model(tmp_path / "plain"))


def test_the_command_writes_what_python_gives(model: Path, captioner: Captioner, photos: list[Path]) -> None:
    done = run("caption", *photos, "--model", model, "--format", "jsonl")
    assert (done.exit_code, done.stderr) == (0, "")
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        captioner.caption(path).to_dict() for path in photos
    ]
    options = ("--tags", "dog, sea", "--exclude-tags", "sand", "--beams", "2", "--max-length", "9")
    done = run("caption", photos[0], "--model", model, *options)
    wanted = captioner.caption(photos[0], ["dog", "sea"], exclude_tags=["sand"], beams=2, max_length=9)
    assert done.stdout == f"{photos[0]}\t{wanted.text}\n"
    done = run("caption", photos[0], "--model", model, "--tags", "", "--sample", "--seed", "4")
    assert done.stdout == f"{photos[0]}\t{captioner.caption(photos[0], [], sample=True, seed=4).text}\n"


def test_the_command_reports_failures_and_writes_files(
    model: Path, photos: list[Path], tmp_path: Path
) -> None:
    done = run("caption", "missing.jpg", photos[0], "--model", model, "--output", tmp_path / "out.jsonl")
    assert done.exit_code == 1
    assert "Failed: missing.jpg: no such file" in done.stderr
    assert "1 of 2 photos failed." in done.stderr
    assert (tmp_path / "out.jsonl").read_text().count('"text"') == 2
    done = run("caption", photos[0], "--model", model, "--beams", "0")
    assert done.exit_code == 2
