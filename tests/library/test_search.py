"""Search of a library: what is found, in which order, and that nothing that a user types breaks it."""

from __future__ import annotations

import math
import os
import sqlite3
import threading
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from anytag.errors import AnytagError, LibraryError, VocabularyError
from anytag.fusion.sentences import SentenceReader
from anytag.library import hits as module
from anytag.library import words
from anytag.library.filters import Filters
from anytag.library.hits import Found
from anytag.library.library import Library
from anytag.library.search import Searcher
from anytag.library.vectors import keep, vector_file
from anytag.queries.build import Questions
from anytag.reranking import weights_of
from tests.library.shelf import FOLDER, VOCABULARY, WIDTH, Floats, Shelf

READER = SentenceReader(Questions(FOLDER))
assert FOLDER.card.search is not None
FIT = FOLDER.card.search


@pytest.fixture(autouse=True)
def one_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's words are read once for all tests; `tests/cli/test_search.py` has them read each time."""
    monkeypatch.setattr(Searcher, "reader", READER)


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    shelf = Shelf(tmp_path)
    yield shelf
    shelf.library.close()


def vector(seed: int) -> Floats:
    """One of its own, which has nothing against a dog."""
    noise = np.random.default_rng(seed).normal(0, 0.8, WIDTH)
    query = READER.read("a dog").query
    assert query is not None
    return np.asarray(noise + query * (12 - noise @ query) / (query @ query), np.float32)


def fitting(text: str, product: float = 6.0) -> Floats:
    """A vector whose product with a sentence's query is as it is said."""
    query = READER.read(text).query
    assert query is not None
    return np.asarray(query * product / (query @ query), np.float32)


def names(found: Found) -> list[str]:
    return [Path(hit.photo.path).name for hit in found.hits]


def sigmoid(odds: float) -> float:
    return 1 / (1 + math.exp(-odds))


def test_every_photo_is_scored_by_the_formula_of_the_card(shelf: Shelf) -> None:
    """Against a slow reading of it, one photo at a time."""
    random, text = np.random.default_rng(0), "a dog on a beach with a bicycle"
    sentence = READER.read(text)
    expected = {}
    for number in range(40):
        own = vector(number) * 2
        tags = {name: float(random.uniform(0.4, 1)) for name in ("dog", "beach") if random.random() < 0.5}
        shelf.add(f"{number}.jpg", own, tags=tags)
        assert sentence.query is not None
        fit = float(sentence.query @ own)
        for term in sentence.terms:
            assert term.column is not None and term.tag is not None
            score = tags.get(VOCABULARY[VOCABULARY.index(term.tag)].name)
            odds = (
                min(float(term.column[:-1] @ own + term.column[-1]), term.limit)
                if score is None
                else math.log(score / (1 - score))
            )
            fit -= FIT.term_weight * math.log1p(math.exp(-odds))
        expected[f"{number}.jpg"] = sigmoid(FIT.scale * fit + FIT.per_term * 3 + FIT.bias)
    searcher = Searcher(shelf.library)
    found = searcher.search(text, top_k=None, fold=False)
    fits = {name: score for name, score in expected.items() if score >= 0.5}
    assert names(found) == sorted(fits, key=lambda name: -fits[name])
    assert [hit.score for hit in found] == pytest.approx(sorted(fits.values(), reverse=True), rel=1e-4)


def test_a_tag_alone_is_asked_as_that_tag(shelf: Shelf) -> None:
    shelf.add("sure.jpg", vector(1), tags={"dog": 0.9})
    shelf.add("likely.jpg", vector(2), tags={"dog": 0.6})
    shelf.add("not given.jpg", fitting("a dog", 30))
    found = shelf.library.search("a dog")
    assert [(Path(hit.photo.path).name, hit.score) for hit in found] == [
        ("sure.jpg", 0.9),
        ("likely.jpg", 0.6),
    ]
    assert names(shelf.library.search("Hund")) == ["sure.jpg", "likely.jpg"]


def test_what_people_say_comes_first_and_what_they_deny_is_not_found(shelf: Shelf) -> None:
    shelf.add("model.jpg", vector(1), tags={"dog": 0.95})
    shelf.add("denied.jpg", vector(2), tags={"dog": 0.99})
    shelf.add("added.jpg", vector(3))
    shelf.add("keyword.jpg", vector(4), keywords=["animal|dog"])
    shelf.add("dog days/a.jpg", vector(5))
    shelf.library.reject(shelf.path / "denied.jpg", "dog")
    shelf.add("dog days/denied.jpg", vector(6))
    shelf.library.reject(shelf.path / "dog days/denied.jpg", "dog")
    shelf.library.add(shelf.path / "added.jpg", "dog")
    found = names(shelf.library.search("dog"))
    assert set(found) == {"model.jpg", "added.jpg", "keyword.jpg", "a.jpg"}
    assert found[-1] == "model.jpg"


def test_words_that_only_people_know(shelf: Shelf) -> None:
    """Names of persons, places and files, in any case and script, with and without spaces."""
    shelf.add("x/1.jpg", vector(1), keywords=["Anna Müller"])
    shelf.add("x/2.jpg", vector(2), keywords=["東京タワー"])
    shelf.add("IMG_1234.jpg", vector(3))
    shelf.add("x/4.jpg", vector(4), caption="the zorblax of a friend")
    shelf.add("x/5.jpg", vector(5), caption="a man on a boat")
    for text, name in (
        ("anna", "1.jpg"), ("MULLER", "1.jpg"), ("東京", "2.jpg"), ("1234", "IMG_1234.jpg"),
        ("zorblax", "4.jpg"),
    ):  # fmt: skip
        assert names(shelf.library.search(text)) == [name], text


def test_nothing_fits_is_said_and_the_nearest_are_named(shelf: Shelf) -> None:
    for number in range(5):
        shelf.add(f"{number}.jpg", vector(number) * 0.1)
    for text in ("a submarine reactor", "blorf wizzet", "giraffe", "of the", "!?"):
        found = shelf.library.search(text)
        assert not found and len(found) == 0, text
        assert len(found.nearest) == 3 and found.nearest[0].score < 0.5
    (shelf.path / "no").mkdir()
    assert shelf.library.search("a dog", folder=shelf.path / "no").photos == 0


def test_what_no_model_could_see_is_found_by_its_name_and_never_near(shelf: Shelf) -> None:
    shelf.add("1.jpg", vector(1) * 0.1)
    for name in ("Anna broken.jpg", "text.jpg"):
        shelf.library.database.connection.execute(
            "UPDATE photos SET state = 'failed', model = NULL WHERE id = ?", (shelf.add(name),)
        )
    found = shelf.library.search("giraffe")
    assert [Path(hit.photo.path).name for hit in found.nearest] == ["1.jpg"]
    assert (found.photos, found.unseen) == (3, 0)  # a sync would not look at them again
    assert names(shelf.library.search("Anna")) == ["Anna broken.jpg"]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    """300 photos of which 1 % are on a beach."""
    shelf = Shelf(tmp_path_factory.mktemp("many"))
    for number in range(300):
        tags = {name: 0.8 for name, each in (("dog", 3), ("cat", 7), ("beach", 100)) if number % each == 0}
        shelf.add(
            f"{'a' if number % 2 else 'a b'}/{number}.jpg",
            vector(number),
            tags=tags,
            taken=f"20{number % 25:02d}-05-17T10:00:00" if number % 5 else None,
        )
    yield shelf
    shelf.library.close()


@pytest.mark.parametrize(
    ("filters", "holds"),
    [
        ({"tags": ["beach"]}, lambda n: n % 100 == 0),
        ({"tags": ["Strand", "dog"]}, lambda n: n % 300 == 0),
        ({"exclude_tags": ["dog", "cat"]}, lambda n: n % 3 and n % 7),
        ({"tags": ["giraffe"]}, lambda n: False),
        ({"folder": "a"}, lambda n: n % 2),
        ({"folder": "a b/"}, lambda n: n % 2 == 0),
        ({"after": "2020"}, lambda n: n % 5 and n % 25 >= 20),
        ({"before": "2003-05-17"}, lambda n: n % 5 and n % 25 < 3),
        ({"before": "2003-05-18"}, lambda n: n % 5 and n % 25 <= 3),
        ({"after": "2003", "before": "2005-6-1", "tags": ["cat"]}, lambda n: n % 7 == 0 and n % 25 in (3, 4)),
    ],
)
def test_filters_leave_exactly_what_holds(many: Shelf, filters: dict[str, object], holds: object) -> None:
    if "folder" in filters:
        filters = {**filters, "folder": many.path / str(filters["folder"])}
    expected = {n for n in range(300) if holds(n)}  # type: ignore[operator]
    found = many.library.search(top_k=None, **filters)  # type: ignore[arg-type]
    assert {int(Path(hit.photo.path).stem) for hit in found} == expected
    dates = [hit.photo.taken or "" for hit in found]
    assert dates == sorted(dates, reverse=True)
    few = many.library.search(top_k=4, **filters)  # type: ignore[arg-type]
    assert names(few) == names(found)[:4]
    liked = many.library.search(like=many.path / "a b/0.jpg", top_k=None, **filters)  # type: ignore[arg-type]
    assert {int(Path(hit.photo.path).stem) for hit in liked} == expected - {0}


def test_a_tag_of_a_filter_may_be_a_keyword_and_what_people_said(shelf: Shelf) -> None:
    shelf.add("1.jpg", vector(1), keywords=["Ausflug|Straße"])
    shelf.add("2.jpg", vector(2), tags={"dog": 0.9})
    shelf.library.reject(shelf.path / "2.jpg", "dog")
    shelf.library.add(shelf.path / "2.jpg", "Ölbild")
    assert names(shelf.library.search(tags=["STRASSE"])) == ["1.jpg"]
    assert names(shelf.library.search(tags=["ausflug"])) == ["1.jpg"]
    assert names(shelf.library.search(tags=["ölbild"])) == ["2.jpg"]
    assert names(shelf.library.search(tags=["dog"])) == []
    assert names(shelf.library.search(exclude_tags=["dog", "straße"])) == ["2.jpg"]


def test_tags_of_another_vocabulary(shelf: Shelf) -> None:
    """As `sync` with a vocabulary of the user's own gives them: the model knows no such id."""
    number = shelf.add("1.jpg", vector(1))
    shelf.add("2.jpg", vector(2))
    with shelf.library.database.transaction() as connection:
        connection.execute("INSERT INTO tags VALUES (?, 'own:Zirbelstube', 'Zirbelstube', 0.7)", (number,))
        words.rewrite(connection, [number])
    assert names(shelf.library.search("zirbelstube")) == ["1.jpg"]
    assert names(shelf.library.search(tags=["zirbelstube"])) == ["1.jpg"]
    assert names(shelf.library.search(exclude_tags=["zirbelstube"])) == ["2.jpg"]
    shelf.library.reject(shelf.path / "1.jpg", "Zirbelstube")
    assert names(shelf.library.search(tags=["zirbelstube"])) == []


@pytest.mark.parametrize("date", ["", "yesterday", "2024-13", "2024-02-30", "24", "2024-05-31T25:00", "0"])
def test_a_date_that_is_none_is_named(shelf: Shelf, date: str) -> None:
    with pytest.raises(LibraryError, match="is not a date"):
        shelf.library.search(after=date)


@pytest.mark.parametrize(
    "wrong", [{"top_k": 0}, {"top_k": True}, {"top_k": 2.5}, {"tags": "dog"}, {"tags": [" "]}, {"text": " "}]
)
def test_wrong_use_is_named(shelf: Shelf, wrong: dict[str, object]) -> None:
    with pytest.raises(AnytagError, match=r"expected|give"):
        shelf.library.search(**{"text": "a dog", **wrong})  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.text(min_size=1, max_size=60),
        st.lists(
            st.sampled_from(
                [
                    '"',
                    "'",
                    "AND",
                    "OR",
                    "NOT",
                    "NEAR(",
                    ")",
                    "*",
                    "^",
                    ":",
                    "-",
                    "{name}",
                    "a dog",
                    "\0",
                    "\\",
                    "+",
                ]
            ),
            min_size=1,
        ).map(" ".join),
    )
)
@example("dog AND NEAR(cat")
@example('"')
@example("name:dog*")
@example("\u0301 \ufe0f ² ½ ﬁ")
def test_no_words_are_a_syntax_error(many: Shelf, text: str) -> None:
    try:
        found = many.library.search(text)
        Searcher(many.library).search(filters=Filters([text], [text]))
    except (VocabularyError, LibraryError):
        assert not text.strip() or any("\ud800" <= c <= "\udfff" for c in text)
    else:
        assert found.photos == 300


def test_near_copies_are_folded_into_the_best(shelf: Shelf) -> None:
    one, other = vector(1), vector(2)
    for name, own, score in (("1.jpg", one, 0.9), ("2.jpg", other, 0.8), ("1 small.jpg", one * 1.01, 0.7)):
        shelf.add(name, own, tags={"dog": score})
    found = shelf.library.search("a dog", top_k=2)
    assert names(found) == ["1.jpg", "2.jpg"]
    assert found.hits[0].copies == (str(shelf.path / "1 small.jpg"),)
    assert found.hits[1].copies == ()
    assert names(shelf.library.search("a dog", fold=False)) == ["1.jpg", "2.jpg", "1 small.jpg"]


def test_photos_whose_hashes_are_near_are_copies_but_not_two_plain_walls() -> None:
    random = np.random.default_rng(0)
    hashes = random.integers(0, 256, (4, 32), np.uint8)
    hashes[1] = hashes[0] ^ np.packbits(np.arange(256) < 24)
    hashes[2] = hashes[0] ^ np.packbits(np.arange(256) < 25)
    bits = np.stack([module.bits_of(one.tobytes()) for one in hashes])
    units = np.eye(4, 8, dtype=np.float32)
    assert module.similarities(units, bits, units[0], bits[0]) == pytest.approx([1, module.SAME_COSINE, 0, 0])
    walls = np.stack([module.bits_of(bytes(31) + bytes([one])) for one in (0, 3, 7, 1)])
    assert module.similarities(units, walls, units[0], walls[0]) == pytest.approx([1, 0, 0, 0])
    assert module.similarities(units, walls, units[1], bits[1]) == pytest.approx([0, 1, 0, 0])


def test_copies_are_found_among_the_last_results_alone(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_NEIGHBOURS", 3)
    for number in range(8):
        shelf.add(f"{number}.jpg", vector(number), tags={"dog": 0.95 - number / 100})
    for number, score in ((7, 0.8), (5, 0.79), (2, 0.78)):
        shelf.add(f"again {number}.jpg", vector(number), tags={"dog": score})
    found = shelf.library.search("a dog", top_k=None)
    assert {Path(hit.photo.path).name: len(hit.copies) for hit in found if hit.copies} == {
        "7.jpg": 1,
        "5.jpg": 1,
    }


def test_a_photo_is_not_like_itself(many: Shelf, shelf: Shelf) -> None:
    found = many.library.search(like=many.path / "a b/8.jpg", top_k=5)
    assert "8.jpg" not in names(found) and len(found) == 5
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)
    own = vector(8)
    slow = sorted(range(300), key=lambda n: -(vector(n) @ own / np.linalg.norm(vector(n))))[1:6]
    assert [int(Path(hit.photo.path).stem) for hit in found] == slow


def test_likeness_ranks_what_a_sentence_fits(many: Shelf) -> None:
    found = many.library.search("a dog", like=many.path / "a b/8.jpg", top_k=None)
    assert {int(Path(hit.photo.path).stem) for hit in found} == set(range(0, 300, 3))
    assert found.hits[0].score > found.hits[-1].score


def test_a_photo_from_outside(many: Shelf, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (30, 20), "red").save(tmp_path / "red.png")
    assert len(many.library.search(like=tmp_path / "red.png", top_k=3)) == 3
    with pytest.raises(AnytagError, match=r"missing\.png"):
        many.library.search(like=tmp_path / "missing.png")


def test_vectors_of_no_numbers_are_passed_over_and_ties_are_stable(shelf: Shelf) -> None:
    broken = np.full(WIDTH, np.nan, np.float32)
    shelf.add("nan.jpg", broken)
    shelf.add("zero.jpg", np.zeros(WIDTH, np.float32))
    shelf.add("inf.jpg", np.full(WIDTH, np.inf, np.float32))
    for number in range(6):
        shelf.add(f"{number}.jpg", vector(1), tags={"dog": 0.8})
    for _ in range(3):
        assert names(shelf.library.search("a dog", fold=False)) == [f"{number}.jpg" for number in range(6)]
        liked = shelf.library.search(like=shelf.path / "0.jpg", fold=False)
        assert names(liked)[:5] == [f"{number}.jpg" for number in range(1, 6)]
    shelf.library.search("a red sentence of some length", fold=False)


def test_files_that_are_gone_give_way_to_the_next(shelf: Shelf) -> None:
    for number in range(5):
        shelf.add(f"{number}.jpg", vector(number), tags={"dog": 0.9 - number / 100})
    (shelf.path / "0.jpg").unlink()
    (shelf.path / "2.jpg").unlink()
    assert names(shelf.library.search("a dog", top_k=2)) == ["1.jpg", "3.jpg"]


def test_vectors_of_two_models_are_never_compared(shelf: Shelf) -> None:
    shelf.add("ours.jpg", fitting("a man on a horse in a river", 9), tags={"dog": 0.9})
    shelf.add("theirs.jpg", fitting("a man on a horse in a river", 20), weights="another", keywords=["Anna"])
    found = shelf.library.search("a man on a horse in a river", top_k=None)
    assert "theirs.jpg" not in names(found) and found.unseen == 1
    assert names(shelf.library.search("Anna")) == ["theirs.jpg"], "words are found whoever saw it"
    assert names(shelf.library.search(like=shelf.path / "ours.jpg")) == []


def test_a_vector_without_a_row_and_a_row_without_a_vector(shelf: Shelf) -> None:
    """As a kill between the two leaves them, and a disk that was full."""
    shelf.add("1.jpg", vector(1), tags={"dog": 0.9})
    shelf.add("2.jpg", vector(2), tags={"dog": 0.8}, slot=7)
    file = vector_file(shelf.library.database.path, weights_of(FOLDER.card), WIDTH)
    with file.path.open("ab") as whole:
        whole.write(b"torn")
    assert names(shelf.library.search("a dog")) == ["1.jpg", "2.jpg"]
    os.truncate(file.path, file.bytes + 5)
    assert names(shelf.library.search("a dog")) == ["1.jpg", "2.jpg"], "by their tags"
    assert names(shelf.library.search(like=shelf.path / "1.jpg")) == []
    file.path.unlink()
    with Library.open(shelf.library.database.path) as again:
        found = again.search("a dog")
    assert (names(found), found.unseen) == (["1.jpg", "2.jpg"], 2)


def test_a_photo_whose_place_was_given_away_meanwhile_is_passed_over(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.add("1.jpg", vector(1), tags={"dog": 0.9})
    shelf.add("2.jpg", vector(2), tags={"dog": 0.8})
    searcher, keys = Searcher(shelf.library), Searcher._keys

    def meanwhile(self: Searcher, *given: object) -> object:
        found = keys(self, *given)  # type: ignore[arg-type]
        thread = threading.Thread(target=change)
        thread.start()
        thread.join()
        return found

    def change() -> None:
        with sqlite3.connect(shelf.library.database.path) as connection:
            connection.execute("UPDATE photos SET slot = 9 WHERE name = '1.jpg'")

    monkeypatch.setattr(Searcher, "_keys", meanwhile)
    assert names(searcher.search("a dog")) == ["2.jpg"]
    monkeypatch.undo()
    assert names(searcher.search("a dog")) == ["1.jpg", "2.jpg"], "and the next search sees it"


def test_searches_while_another_process_writes_see_one_state(shelf: Shelf) -> None:
    """Photos go and others take their places in the vector file; each name says what its vector is."""
    probe = vector(1)
    for number in range(40):
        shelf.add(f"near {number}.jpg", probe)
    path, weights, stop = shelf.library.database.path, weights_of(FOLDER.card), threading.Event()

    def write() -> None:
        connection = sqlite3.connect(path, isolation_level=None)
        for number in range(40):
            if stop.is_set():
                break
            (shelf.path / f"far {number}.jpg").touch()
            connection.execute("DELETE FROM photos WHERE slot = ?", (number,))
            keep(path, weights, [number], [-probe])
            connection.execute(
                "INSERT INTO photos (root, path, name, size, mtime_ns, device, inode, state, model, slot) "
                "VALUES (1, ?, ?, 0, 0, 0, 0, 'done', 1, ?)",
                (os.fsencode(shelf.path / f"far {number}.jpg"), f"far {number}.jpg", number),
            )
        connection.close()

    searcher = Searcher(shelf.library)
    searcher._like = lambda photo: (probe, [])  # type: ignore[method-assign]
    writer = threading.Thread(target=write)
    writer.start()
    try:
        while writer.is_alive():
            found = searcher.search(like="probe", top_k=None, fold=False)
            for hit in found:
                assert (hit.score > 0) == Path(hit.photo.path).name.startswith("near"), hit
    finally:
        stop.set()
        writer.join()
    assert {name.split()[0] for name in names(searcher.search(like="probe", top_k=None, fold=False))} == {
        "far"
    }


def test_a_damaged_library_is_said_in_a_sentence(shelf: Shelf) -> None:
    shelf.add("1.jpg", vector(1), tags={"dog": 0.9})
    shelf.library.database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with (shelf.path / "library.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 65536)
    other = Library.open(shelf.path / "library.db")
    with pytest.raises(LibraryError, match="damaged"):
        Searcher(other).search("a dog")
    other.close()


def test_what_is_remembered_of_the_library_follows_it(shelf: Shelf) -> None:
    shelf.add("1.jpg", vector(1), tags={"dog": 0.9})
    assert names(shelf.library.search("a dog")) == ["1.jpg"]
    number = shelf.add("2.jpg", vector(2), tags={"dog": 0.95})
    assert names(shelf.library.search("a dog")) == ["2.jpg", "1.jpg"]
    with shelf.library.database.transaction() as connection:
        connection.execute("UPDATE photos SET state = 'gone' WHERE id = ?", (number,))
        words.rewrite(connection, [number])
    assert names(shelf.library.search("a dog")) == ["1.jpg"]
    assert names(shelf.library.search("2")) == []


def test_filters_of_nothing_are_none() -> None:
    assert not Filters()
    assert Filters(folder="") and Filters(after="") and Filters(exclude_tags=("a",))


@pytest.mark.parametrize(
    "tag",
    [
        "🎉",
        "👨‍👩‍👧",
        "🇩🇪",
        "♥",
        "C++",
        "24/7",
        "!!!",
        "猫",
        "猫カフェ",
        "Ω",
        "é",
        "x",
        "the",
        "in the garden",
        "I ♥ NY",
        "_",
        "𠮷",
    ],
)
def test_whatever_can_be_a_tag_is_found_by_its_name(shelf: Shelf, tag: str) -> None:
    added, keyword, other, rejected = (shelf.add(f"{n}.jpg", vector(n)) for n in (1, 2, 3, 4))
    shelf.library.add(added, tag)
    shelf.library.reject(rejected, tag)
    with shelf.library.database.transaction() as connection:
        connection.execute("INSERT INTO keywords VALUES (?, ?, 'file')", (keyword, f"mine|{tag}"))
        words.rewrite(connection, [keyword])
    for text in (tag, f" {tag.upper()} ", unicodedata.normalize("NFD", tag)):
        assert {hit.photo.id for hit in shelf.library.search(text)} == {added, keyword}
    assert {hit.photo.id for hit in shelf.library.search(tags=[tag])} == {added, keyword}
    assert other in {hit.photo.id for hit in shelf.library.search(exclude_tags=[tag])}


def test_a_decision_is_the_same_in_any_form_of_its_letters(shelf: Shelf) -> None:
    photo = shelf.add("a.jpg", vector(1))
    shelf.library.add(photo, "Été")
    shelf.library.reject(photo, unicodedata.normalize("NFD", "ÉTÉ"))
    found = shelf.library.find(photo)
    assert (found.added, found.rejected) == ((), ("ÉTÉ",))
