from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anytag import AnytagError, Gallery, ModelError, Retriever, VocabularyError
from anytag.cli.match import command
from anytag.retriever import SHORTLIST
from tests.command import run
from tests.tiny import make_tiny_model

TEXTS = ["a dog on a beach", "red", "a bicycle near a tree"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(9):
        coarse = np.random.default_rng(number).integers(0, 256, (3, 4, 3), np.uint8)
        Image.fromarray(coarse).resize((40, 30)).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def retriever(model: Path) -> Retriever:
    return Retriever.load(model)


def test_a_text_fits_a_photo_as_an_own_tag_does(retriever: Retriever, photos: list[Path]) -> None:
    scores = retriever.score(retriever.embed(photos), TEXTS)
    for path, row in zip(photos, scores, strict=True):
        # tokens are kept in float16
        slow = {tag.name: tag.score for tag in retriever.tagger.tag(path, [TEXTS[0], TEXTS[2]]).tags}
        assert row[[0, 2]] == pytest.approx([slow[TEXTS[0]], slow[TEXTS[2]]], abs=2e-3)


def test_ranking_is_sorting_by_score(retriever: Retriever, photos: list[Path]) -> None:
    gallery = retriever.embed(photos)
    scores = retriever.score(gallery, TEXTS)
    for column, text in enumerate(TEXTS):
        ranked = retriever.rank(gallery, text, top_k=None)
        slow = sorted(zip(scores[:, column], map(str, photos), strict=True), key=lambda pair: -pair[0])
        assert [match.path for match in ranked] == [path for _, path in slow]
        assert retriever.rank(gallery, text, top_k=2, shortlist=len(photos)) == ranked[:2]


def test_the_shortlist_keeps_the_scores(retriever: Retriever, photos: list[Path]) -> None:
    gallery = retriever.embed(photos)
    exact = {match.path: match.score for match in retriever.rank(gallery, "a dog", top_k=None)}
    short = retriever.rank(gallery, "a dog", top_k=2, shortlist=3)
    assert len(short) == 2
    assert all(exact[match.path] == match.score for match in short)


def test_a_photo_that_fails_is_told_and_the_rest_goes_on(
    retriever: Retriever, photos: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no photo")
    gallery = retriever.embed([photos[0], broken, photos[1]])
    assert gallery.paths == (str(photos[0]), str(photos[1]))
    ((path, failure),) = gallery.failed
    assert path == str(broken)
    assert "broken.jpg" in failure.message


def test_nothing_to_rank(retriever: Retriever) -> None:
    assert retriever.rank(retriever.embed([]), "a dog") == ()


def test_a_gallery_is_read_as_it_was_written(
    retriever: Retriever, photos: list[Path], tmp_path: Path
) -> None:
    gallery = retriever.embed(photos)
    gallery.write(tmp_path / "seen.gallery")
    again = Gallery.read(tmp_path / "seen.gallery")
    assert retriever.rank(again, "a dog") == retriever.rank(gallery, "a dog")
    assert list(tmp_path.iterdir()) == [tmp_path / "seen.gallery"]


@pytest.mark.parametrize("content", [b"", b"no gallery", None])
def test_a_wrong_gallery_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "wrong.gallery"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AnytagError, match=r"wrong\.gallery"):
        Gallery.read(path)


def test_the_gallery_of_another_model_is_refused(
    retriever: Retriever, photos: list[Path], tmp_path: Path
) -> None:
    gallery = retriever.embed(photos)
    other = Gallery("another", gallery.paths, gallery.tokens, gallery.pooled)
    with pytest.raises(ModelError, match="another"):
        retriever.rank(other, "a dog")
    with pytest.raises(VocabularyError):
        retriever.rank(gallery, " ")


def test_match_ranks_and_keeps_what_it_saw(model: Path, photos: list[Path], tmp_path: Path) -> None:
    kept = tmp_path / "seen.gallery"
    asked = ("--text", "a dog", "--text", "red", "--model", model, "--top-k", "3", "--format", "jsonl")
    first = run("match", photos[0].parent, *asked, "--gallery", kept)
    assert (first.exit_code, first.stderr) == (0, "")
    rows = [json.loads(line) for line in first.stdout.splitlines()]
    assert [row["text"] for row in rows] == ["a dog"] * 3 + ["red"] * 3
    retriever = Retriever.load(model)
    expected = retriever.rank(retriever.embed(photos), "a dog", top_k=3)
    assert rows[:3] == [match.to_dict() for match in expected]
    assert run("match", *asked, "--gallery", kept).stdout == first.stdout


def test_match_says_what_failed(model: Path, photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    done = run("match", photos[0], tmp_path / "broken.jpg", "--text", "a dog", "--model", model)
    assert done.exit_code == 1
    assert done.stdout.startswith(f"{photos[0]}\t")
    assert "broken.jpg" in done.stderr
    assert "1 of 2 photos failed" in done.stderr


def test_match_needs_photos() -> None:
    done = run("match", "--text", "a dog")
    assert done.exit_code == 2
    assert "--gallery" in done.stderr


def test_the_command_looks_at_as_many_as_python() -> None:
    (option,) = (one for one in command.params if one.name == "shortlist")
    assert option.default == SHORTLIST
