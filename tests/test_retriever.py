from __future__ import annotations

import json
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anytag import AnytagError, Gallery, Library, ModelError, Retriever, VocabularyError
from anytag.library.filters import Filters
from anytag.library.search import Searcher
from anytag.models.card import Card
from anytag.models.folder import write_card
from anytag.reranking import weights_of
from anytag.scoring import sigmoid
from tests.command import run, start
from tests.tiny import make_tiny_model

EXAMPLES = Path(__file__).parents[1] / "examples" / "photos"
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


def test_a_photo_scores_as_in_a_library(tmp_path: Path) -> None:
    """The embedded model, whose card says how: by tags that the decoder gave, by vectors, or by both."""
    retriever = Retriever.load(device="cpu")
    texts = ["a cat", "a cat that looks at the camera", "a red flower and its leaves", "a man in uniform",
             "Katze", "something to eat", "the square root of justice"]  # fmt: skip
    gallery = retriever.embed(sorted(EXAMPLES.glob("*.jpg")))
    scores = retriever.score(gallery, texts)
    with Library.open(tmp_path / "library.db") as library:
        library.sync(EXAMPLES, tagger=retriever.tagger)
        searcher = Searcher(library)
        names = [Path(photo.path).name for photo in library.get(searcher.ids(Filters()))]
        order = [names.index(Path(path).name) for path in gallery.paths]
        for column, text in enumerate(texts):
            expected = sigmoid(searcher.log_odds(text)[0])[order]
            assert scores[:, column] == pytest.approx(expected, abs=2e-2)  # tokens are kept in float16
            (best,) = retriever.rank(gallery, text, top_k=1)
            assert best.path == gallery.paths[int(scores[:, column].argmax())]
    assert scores[:, :2].max() > 0.9 and scores[:, 6].max() < 0.5


def test_a_model_without_numbers_of_its_own_is_not_scored_by_those_of_another(
    model: Path, photos: list[Path], tmp_path: Path
) -> None:
    """Words are asked of the decoder; in a library tags decide, and vectors order what is alike."""
    shutil.copytree(model, tmp_path / "model")
    write_card(tmp_path / "model", replace(Card.read(model), search=None))
    retriever = Retriever.load(tmp_path / "model")
    assert not retriever.calibrated and Retriever.load(model).calibrated
    tagger, gallery = retriever.tagger, retriever.embed(photos)
    for column, text in enumerate(TEXTS):
        logits = [
            tagger.runtime.score(one.tokens[None], one.pooled[None], tagger.queries([text])[None])[0, 0]
            for one in map(tagger.encode, photos)
        ]
        line = tagger.card.calibration.own
        slow = sigmoid(line.scale * np.array(logits) + line.bias)
        assert retriever.score(gallery, TEXTS)[:, column] == pytest.approx(slow, abs=1e-2)  # float16 tokens
    with Library.open(tmp_path / "library.db") as library:
        library.sync(photos[0].parent, tagger=tagger)
        searcher = Searcher(library, tmp_path / "model")
        odds, second = searcher.log_odds("a dog")
        found = library.get(searcher.ids(Filters()))
        given = ["dog" in {tag.id for tag in photo.scores} for photo in found]
        assert (odds >= 0).tolist() == given and len(set(second.tolist())) == len(photos)


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


def test_photos_that_are_ranked_as_they_come_are_ranked_as_in_a_gallery(
    retriever: Retriever, photos: list[Path]
) -> None:
    gallery = retriever.embed(photos)
    for top_k, shortlist in ((2, 3), (None, 1), (1, 1), (9, 4), (30, 30)):
        ranking = retriever.ranking(TEXTS, top_k=top_k, shortlist=shortlist)
        seen = list(ranking.add(photos, batch_size=2, workers=1))
        assert [one.path for one in seen] == list(map(str, photos))
        for text, found in zip(TEXTS, ranking.matches(), strict=True):
            exact = retriever.rank(gallery, text, top_k=top_k, shortlist=shortlist)
            assert [one.path for one in found] == [one.path for one in exact]
            assert [one.score for one in found] == pytest.approx([one.score for one in exact], abs=1e-5)


@pytest.mark.parametrize(
    "wrong", [{"top_k": -1}, {"top_k": 0}, {"top_k": 2.5}, {"shortlist": 0}, {"top_k": True}]
)
def test_wrong_counts_are_named(retriever: Retriever, photos: list[Path], wrong: dict[str, int]) -> None:
    with pytest.raises(AnytagError, match="expected a whole number"):
        retriever.rank(retriever.embed(photos[:1]), "a dog", **wrong)


@pytest.mark.parametrize("text", [None, 5, "", "\ud83d", "\ud83d a dog"])
def test_a_text_that_is_none_is_refused(retriever: Retriever, text: str) -> None:
    with pytest.raises(VocabularyError):
        retriever.rank(retriever.embed([]), text)
    with pytest.raises(VocabularyError):
        retriever.score(retriever.embed([]), "a dog")


def test_a_gallery_is_read_as_it_was_written(
    retriever: Retriever, photos: list[Path], tmp_path: Path
) -> None:
    gallery = retriever.embed(photos)
    gallery.write(tmp_path / "seen.gallery")
    again = Gallery.read(tmp_path / "seen.gallery")
    assert retriever.rank(again, "a dog") == retriever.rank(gallery, "a dog")
    assert list(tmp_path.iterdir()) == [tmp_path / "seen.gallery"]
    gallery.write(tmp_path / "seen.gallery")  # in the place of the other
    assert len(Gallery.read(tmp_path / "seen.gallery")) == len(gallery)


def test_a_gallery_of_tokens_as_earlier_versions_made_it_ranks_and_grows(
    retriever: Retriever, photos: list[Path], tmp_path: Path
) -> None:
    tagger, new = retriever.tagger, retriever.embed(photos)
    seen = [tagger.encode(photo) for photo in photos[:5]]
    tokens, pooled = np.stack([one.tokens for one in seen]), np.stack([one.pooled for one in seen])
    names = tuple(map(str, photos[:5]))
    old = Gallery("tiny", names, tokens.astype(np.float16), pooled, weights=weights_of(tagger.card))
    assert (old.kind, new.kind) == ("tokens", "tags")
    old.write(tmp_path / "old.gallery")
    with retriever.open_gallery(tmp_path / "old.gallery") as gallery:
        list(retriever.add(gallery, gallery.new(photos)))
    grown = Gallery.read(tmp_path / "old.gallery")
    assert (grown.kind, len(grown)) == ("tokens", len(photos))
    for text in TEXTS:
        found, expected = (retriever.rank(one, text, top_k=None) for one in (grown, new))
        assert [one.path for one in found] == [one.path for one in expected]
        assert [one.score for one in found] == pytest.approx([one.score for one in expected], rel=1e-5)
    changed = Retriever(tagger.with_vocabulary(tagger.vocabulary.subset(["dog", "cat"])))
    assert changed.rank(grown, "a dog")
    with pytest.raises(ModelError, match="encode the photos again"):  # its tags are of another vocabulary
        changed.rank(new, "a dog")


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
    with pytest.raises(ModelError, match="weights 0123"):  # trained again under the same name
        retriever.rank(replace(gallery, weights="0123"), "a dog")
    with pytest.raises(VocabularyError):
        retriever.rank(gallery, " ")


def test_match_ranks_and_keeps_what_it_saw(model: Path, photos: list[Path], tmp_path: Path) -> None:
    kept = tmp_path / "seen.gallery"
    asked = ("--text", "a dog", "--text", "red", "--model", model, "--top-k", "3", "--format", "jsonl")
    first = run("match", photos[0].parent, *asked, "--gallery", kept)
    assert first.exit_code == 0
    assert all(line.startswith("No photo fits") for line in first.stderr.splitlines())
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


def test_match_adds_what_is_new_or_changed(model: Path, photos: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos[0].parent, folder)
    kept = tmp_path / "seen.gallery"
    asked = ("--text", "a dog", "--model", model, "--top-k", "99", "--gallery", kept)
    first = run("match", *sorted(folder.iterdir())[:4], *asked)
    assert len(first.stdout.splitlines()) == 4
    (folder / "0.png").write_bytes(photos[8].read_bytes() + b" ")
    (folder / "1.png").write_bytes(b"no photo any more")
    done = run("match", folder, *asked, "--output", tmp_path / "found.jsonl")
    assert (done.exit_code, done.stdout) == (1, "")
    assert ": 2 of 9 photos." in done.stderr and "1 of 7 photos failed" in done.stderr
    rows = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    scores = {Path(row["path"]).name: row["score"] for row in rows}
    assert set(scores) == {f"{number}.png" for number in (0, 2, 3, 4, 5, 6, 7, 8)}
    assert scores["0.png"] == scores["8.png"]
    alone = run("match", *asked, "--format", "jsonl")
    assert alone.exit_code == 0 and alone.stdout == (tmp_path / "found.jsonl").read_text()


def test_what_can_be_checked_is_checked_before_photos_are_read(
    model: Path, photos: list[Path], tmp_path: Path
) -> None:
    broken, mine = tmp_path / "broken.jpg", tmp_path / "mine"
    broken.write_bytes(b"no photo")
    mine.mkdir()
    (mine / "letter.txt").write_text("mine")
    wrong: list[tuple[str, tuple[str | Path, ...]]] = [
        ("exists and is not a gallery", ("--gallery", mine)),
        ("is a file", ("--gallery", mine / "letter.txt")),
        ("suffix of a photo", ("--gallery", broken)),
        ("suffix of a photo", ("--gallery", tmp_path / "new.JPG")),
        ("is not a folder", ("--gallery", mine / "letter.txt" / "below")),
        ("is not a folder", ("--gallery", tmp_path / "no" / "folder.gallery")),
        ("suffix of a photo", ("--output", broken)),
        ("no word or letter", ("--text", "\u043a\u043e\u0448\u043a\u0430")),
        ("expected words", ("--text", " ")),
    ]
    for said, options in wrong:
        done = run("match", broken, "--text", "a dog", "--model", model, *options)
        assert (done.exit_code, done.stdout) == (2, ""), done.stderr
        assert said in done.stderr and "Failed" not in done.stderr
    assert (broken.read_bytes(), sorted(mine.iterdir())) == (b"no photo", [mine / "letter.txt"])
    assert not (tmp_path / "new.JPG").exists()


def test_a_folder_that_got_no_photo_is_removed(model: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    kept = tmp_path / "seen.gallery"
    asked = ("--text", "a dog", "--model", model, "--gallery", kept)
    assert run("match", tmp_path / "broken.jpg", *asked).exit_code == 2
    assert not kept.exists()


def test_a_text_is_printed_on_one_line_and_obeyed_by_no_terminal(model: Path, photos: list[Path]) -> None:
    done = run("match", photos[0], "--text", "a dog\n\tred \x1b[31m", "--model", model)
    assert done.stdout.endswith("\ta dog\\n\\tred \\x1b[31m\n")
    assert len(done.stdout.splitlines()) == 1


def test_words_that_are_not_known_are_told(photos: list[Path]) -> None:
    """With the embedded model, whose vocabulary has names in other languages."""
    done = run("match", photos[0], "--text", "eine Katze auf dem Sofa")
    assert done.exit_code == 0
    assert "does not know eine, auf, dem;" in done.stderr  # the vocabulary knows the nouns
    english = run("match", *photos[:3], "--text", "cat", "--format", "jsonl").stdout
    for name in ("\u732b", "Katze"):
        same = run("match", *photos[:3], "--text", name, "--format", "jsonl")
        assert "does not know" not in same.stderr
        assert (same.exit_code, same.stdout) == (0, english.replace('"cat"', f'"{name}"'))


def test_nothing_fits_is_said_beside_the_ranking() -> None:
    asked = ("--text", "a cat", "--text", "a submarine reactor")
    done = run("match", EXAMPLES / "cat.jpg", EXAMPLES / "rocket.jpg", *asked)
    assert done.exit_code == 0 and len(done.stdout.splitlines()) == 4
    (said,) = done.stderr.splitlines()
    assert said.startswith("No photo fits 'a submarine reactor': the best score is 0.")


def test_an_interrupt_or_a_kill_loses_a_batch(model: Path, photos: list[Path], tmp_path: Path) -> None:
    kept = tmp_path / "seen.gallery"
    asked = ("--text", "a dog", "--model", model, "--gallery", kept, "--batch-size", "2", "--workers", "1")
    lines = kept / "photos.jsonl"
    for stop, named, left in ((signal.SIGKILL, photos[:3], 2), (signal.SIGINT, photos[:6], 6)):
        process = start("match", "-", *asked)
        assert process.stdin is not None
        process.stdin.write("".join(f"{photo}\n" for photo in named).encode())
        process.stdin.flush()  # and no end: more photos may come
        while not lines.exists() or lines.read_bytes().count(b"\n") < left:
            time.sleep(0.01)
        second = run("match", photos[0], *asked)
        assert second.exit_code == 2 and "being written by another process" in second.stderr
        process.send_signal(stop)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b": 6 photos; " in said
    done = run("match", *photos, *asked, "--top-k", "99")
    assert ": 6 of 9 photos." in done.stderr
    assert len(done.stdout.splitlines()) == 9
