"""Descriptions of tags: a language model on 127.0.0.1 that misbehaves, a journal that survives, templates."""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anytag.data.answers import description
from anytag.data.descriptions import from_published, read_descriptions
from anytag.data.engine.describe import (
    Described,
    Journal,
    Request,
    described_by_model,
    estimate,
    request_answers,
    requests,
    without_model,
    write_descriptions,
)
from anytag.data.engine.llm import Endpoint, RateLimiter, Sampling
from anytag.data.vocabulary.wordnet import WordNet
from anytag.errors import AnytagError, EndpointError, NoAnswerError, VocabularyError
from anytag.vocabulary import Tag, Vocabulary
from tests.chat_server import Chat, Fault, body, chat_server, closes, hangs, says, status

SAMPLING = Sampling("tiny")
CAT, ICE = Tag("cat", "cat", "object"), Tag("ice-cream", "ice cream", "object")


@pytest.fixture
def chat() -> Iterator[Chat]:
    with chat_server() as server:
        yield server


def endpoint(chat: Chat, *, per_minute: float | None = None, attempts: int = 4) -> Endpoint:
    return Endpoint(chat.url, SAMPLING, per_minute=per_minute, timeout=0.3, attempts=attempts, backoff=0.01)


def test_five_questions_ten_answers_and_the_template(chat: Chat, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "answers", SAMPLING)
    assert list(request_answers([CAT, ICE], endpoint(chat), journal)) == []
    rows = list(described_by_model([CAT, ICE], journal))
    assert [len(row.descriptions) for row in rows] == [51, 51]
    assert rows[1].descriptions[0] == "a photo of a ice cream."
    assert all("to " in text and "\n" not in text for text in rows[0].descriptions[1:])
    assert len(set(chat.prompts)) == 10 and len(chat.prompts) == 100
    assert "What does an ice cream look like concisely?" in chat.prompts
    assert chat.asked[0]["max_tokens"] == 77 and chat.asked[0]["temperature"] == 0.99


def test_the_file_is_what_training_reads(chat: Chat, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "answers", SAMPLING)
    list(request_answers([CAT], endpoint(chat), journal, answers=1))
    write_descriptions(tmp_path / "descriptions.jsonl", described_by_model([CAT], journal, answers=1))
    vocabulary = Vocabulary([Tag("cat", "cat", "object")])
    (texts,) = read_descriptions(tmp_path / "descriptions.jsonl", vocabulary)
    assert texts[0] == "a photo of a cat." and len(texts) == 6


FAULTS = {
    "429": status(429, Retry_After="0.05"),
    "429 with a date": status(429, Retry_After=email.utils.formatdate(time.time() - 9)),
    "429 with nonsense": status(429, Retry_After="soon"),
    "500": status(500),
    "503": status(503),
    "garbage": body("<html>hello</html>"),
    "broken JSON": body('{"choices": [', Content_Type="application/json"),
    "other JSON": body("[1, 2]"),
    "no choices": body('{"choices": []}'),
    "null": body("null"),
    "empty": says("  \n"),
    "no text": says(None),
    "an object as choices": body('{"choices": {"message": {}}}'),
    "a text as a message": body('{"choices": [{"message": "hello"}]}'),
    "a number as a choice": body('{"choices": [3]}'),
    "a list as a message": body('{"choices": [{"message": [1]}]}'),
    "closes": closes,
    "hangs": hangs,
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_is_tried_again(chat: Chat, fault: Fault) -> None:
    chat.faults = [fault]
    assert endpoint(chat).answer("what?") == "answer 2 to what"


def test_a_429_holds_everyone(chat: Chat) -> None:
    chat.faults = [status(429, Retry_After="0.3")]
    assert endpoint(chat).answer("what?")
    assert chat.times[1] - chat.times[0] >= 0.28


def test_a_429_holds_requests_that_wait_for_the_rate(chat: Chat, tmp_path: Path) -> None:
    chat.faults = [status(429, Retry_After="0.6")]
    journal = Journal(tmp_path / "answers", SAMPLING)
    list(request_answers([CAT], endpoint(chat, per_minute=60 / 0.05), journal, answers=1))
    assert chat.times[1] - chat.times[0] >= 0.55


@pytest.mark.parametrize("empty", [says(""), says(None), body('{"choices": []}')])
def test_an_empty_answer_is_requested_after_a_pause(chat: Chat, empty: Fault) -> None:
    chat.faults = [empty, empty]
    paused = Endpoint(chat.url, SAMPLING, timeout=5, attempts=4, backoff=0.1)
    assert paused.answer("what?")
    assert chat.times[2] - chat.times[0] >= 0.29


def test_one_lost_answer_does_not_stop_the_others(chat: Chat, tmp_path: Path) -> None:
    chat.faults = [status(500)] * 2
    journal = Journal(tmp_path / "answers", SAMPLING)
    failures = list(request_answers([CAT], endpoint(chat, attempts=2), journal, answers=1, concurrency=1))
    assert len(failures) == 1 and "no answer to" in failures[0] and "status 500" in failures[0]
    (row,) = described_by_model([CAT], journal, answers=1)
    assert row.missing == 1 and len(row.descriptions) == 5
    assert (
        list(request_answers([CAT], endpoint(chat), journal, answers=1)) == []
    )  # run again: only what is missing
    assert len(chat.prompts) == 2 + 4 + 1


def test_a_refusal_stops_all_and_keeps_what_came(
    chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    chat.faults = [says("one"), says("two"), status(401)]
    journal = Journal(tmp_path / "answers", SAMPLING)
    with pytest.raises(EndpointError, match=r"status 401.*OPENAI_API_KEY is not set") as caught:
        list(request_answers([CAT], endpoint(chat), journal, concurrency=1))
    assert not isinstance(caught.value, NoAnswerError)
    assert len(chat.asked) < 8
    assert {"one", "two"} <= set(Journal(tmp_path / "answers", SAMPLING).answers.values())


def test_nobody_waits_for_an_hour(chat: Chat) -> None:
    chat.faults = [status(429, Retry_After="3600")]
    with pytest.raises(EndpointError, match="asks to wait 3600 s"):
        endpoint(chat).answer("what?")


def test_an_address_where_nothing_is(chat: Chat) -> None:
    nobody = Endpoint("http://127.0.0.1:9/v1", SAMPLING, timeout=0.2, attempts=2, backoff=0.01)
    with pytest.raises(EndpointError, match="is not reachable") as caught:
        nobody.answer("what?")
    assert not isinstance(caught.value, NoAnswerError)


@pytest.mark.parametrize("fault", [status(503), closes], ids=["503", "closes"])
def test_a_server_that_dies_ends_the_work_and_what_came_is_kept(
    chat: Chat, fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anytag.data.engine.llm.MAX_SILENCE", 0.0)
    journal = Journal(tmp_path / "answers", SAMPLING)
    chat.faults = [says("Some fur."), *[fault] * 99]
    with pytest.raises(EndpointError, match=r"has not answered ([5-9]|\d\d+) requests in a row"):
        list(request_answers([CAT], endpoint(chat, attempts=50), journal, concurrency=1))
    assert list(Journal(tmp_path / "answers", SAMPLING).answers.values()) == ["Some fur."]
    assert len(chat.asked) < 20


QUESTION = "What does a cat look like?"
NO_DESCRIPTIONS = [
    "",
    "  \n",
    "...",
    "I'm sorry, as an AI language model I cannot help.",
    "I\u2019m sorry, but I can\u2019t.",
    "Sorry, I do not know.",
    "As an AI, I have no eyes.",
    "Sure, here is a description: A cat is small.",
    "Here are ten features of a cat",
    "Certainly! A cat is small.",
    "Unfortunately, no picture was given.",
    QUESTION,
    "what does a cat look like",
    QUESTION + " A cat is small.",
    "Do you want a cat?",
    "N/A",
    "None.",
    "# Cat",
    "- fur\n- tail",
    "1. fur 2. tail",
    "A cat has: - fur - tail",
    "| fur | tail |",
    "```cat```",
    "<think>a cat</think> A cat.",
    "<b>A cat</b>",
    "I cannot describe it",
    "My apologies.",
    "I think it is small.",
]


@pytest.mark.parametrize("said", NO_DESCRIPTIONS)
def test_what_is_no_description(said: str) -> None:
    assert description(said, QUESTION) == ""


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("A cat has fur.", "A cat has fur."),
        ("**A cat** has *soft* `fur`.", "A cat has soft fur."),
        ('"A cat\thas\nfur."', "A cat has fur."),
        ("Sorrel-coloured, with a tail.", "Sorrel-coloured, with a tail."),
        ("Used as a machine that lifts loads - tall and thin - at sites.",) * 2,
        ("Seen from above, 3 legs and 2 arms.",) * 2,
        ("Okra is green; 2*3 pods * are shown.",) * 2,
        ("No two cats look alike.",) * 2,
        ("The letter I is tall, and an I-beam is of steel.",) * 2,
        ("Round.", "Round."),
    ],
)
def test_what_is_a_description(said: str, text: str) -> None:
    assert description(said, QUESTION) == text


def test_what_is_no_description_is_asked_again_and_not_taken_from_an_old_journal(
    chat: Chat, tmp_path: Path
) -> None:
    refusal = "I'm sorry, as an AI language model I cannot help."
    journal = Journal(tmp_path / "answers", SAMPLING)
    for request in requests(CAT, 1):
        journal.add(request, refusal)
    journal = Journal(tmp_path / "answers", SAMPLING)
    assert not journal.answers
    chat.faults = [says(refusal), says("**Sure**, here is one")]
    assert list(request_answers([CAT], endpoint(chat), journal, answers=1, concurrency=1)) == []
    assert len(chat.asked) == 7
    chat.faults = [says(refusal)] * 9
    with pytest.raises(NoAnswerError, match="a rejected answer: \"I'm sorry"):
        endpoint(chat).answer("what?", read=lambda text: description(text, "what?"))


def test_the_key_comes_from_the_environment(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    endpoint(chat).answer("what?")
    assert chat.keys == ["Bearer sesame"]


def test_no_faster_than_the_rate(chat: Chat, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "answers", SAMPLING)
    start = time.monotonic()  # on a busy machine the first may arrive late, but none is sent early
    list(request_answers([CAT], endpoint(chat, per_minute=60 / 0.05), journal, answers=1))
    assert chat.times[-1] - start >= 4 * 0.05 * 0.99


def test_a_closed_gate_lets_nobody_in() -> None:
    limiter = RateLimiter(1)
    assert limiter.acquire()
    limiter.close()
    assert not limiter.acquire()  # and without waiting for a minute


def test_the_journal_survives_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    journal = Journal(path, SAMPLING)
    journal.add(Request("q", 0), "first")
    with path.open("ab") as file:
        file.write(b'{"model": "tiny", "prompt": "q", "numb')
    again = Journal(path, SAMPLING)
    assert again.answers == {Request("q", 0): "first"}
    again.add(Request("q", 1), "second ☃")
    assert Journal(path, SAMPLING).answers == {Request("q", 0): "first", Request("q", 1): "second ☃"}


def test_answers_of_another_model_are_not_taken(tmp_path: Path) -> None:
    Journal(tmp_path / "answers", Sampling("other")).add(Request("q", 0), "first")
    assert Journal(tmp_path / "answers", SAMPLING).answers == {}


@given(st.binary(max_size=200))
def test_a_journal_of_any_bytes_opens(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.mktemp("journal") / "answers"
    path.write_bytes(raw)
    journal = Journal(path, SAMPLING)
    journal.add(Request("q", 0), "kept")
    assert Journal(path, SAMPLING).answers[Request("q", 0)] == "kept"


def test_the_estimate(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "answers", SAMPLING)
    before = estimate([CAT, ICE], journal)
    assert (before.requests, before.cached, before.tokens_out) == (100, 0, 7700)
    assert 1000 < before.tokens_in < 4000
    assert before.price(0, 10) == pytest.approx(0.077)
    journal.add(requests(CAT)[0], "x")
    after = estimate([CAT, ICE], journal)
    assert (after.requests, after.cached) == (99, 1)


NOUNS = """  licence
00000001 05 n 02 corgi 0 welsh_corgi 0 001 @ 00000002 n 0000 | a short dog; "the corgi barked"
00000002 05 n 01 dog 0 000 | a domestic animal; it barks
"""
INDEX = """  licence
corgi n 1 1 @ 1 0 00000001
dog n 1 0 1 0 00000002
"""


@pytest.fixture
def wordnet(tmp_path: Path) -> WordNet:
    (tmp_path / "data.noun").write_text(NOUNS)
    (tmp_path / "index.noun").write_text(INDEX)
    return WordNet(tmp_path)


def test_without_a_model(wordnet: WordNet) -> None:
    tags = Vocabulary([Tag("corgi", "corgi", "object"), Tag("quokka", "zzquokka", "object")])
    corgi, unknown = without_model(tags, wordnet=wordnet)
    assert corgi.descriptions[0] == "a photo of a corgi."
    assert any("a kind of" in text for text in corgi.descriptions)
    assert corgi.descriptions[-1] == "a corgi is a short dog"
    assert unknown.descriptions == ("a photo of a zzquokka.",)
    assert (corgi.source, unknown.source) == ("WordNet 3.0 and templates", "templates")


def test_parents_and_kinds_of_the_vocabulary(wordnet: WordNet) -> None:
    tags = Vocabulary(
        [
            Tag("animal", "animal", "object"),
            Tag("pet", "pet", "object", parents=("animal",)),
            Tag("corgi", "corgi", "object", parents=("pet",)),
            Tag("dog", "dog", "attribute"),
        ]
    )
    *_, corgi, dog = without_model(tags, wordnet=wordnet)
    assert corgi.descriptions[1:3] == ("corgi, a kind of pet", "corgi, a kind of animal")
    assert dog.descriptions == ("a photo of a dog.",), "an attribute has neither broader nouns nor a gloss"


def test_wordnet_reads_senses_and_chains(wordnet: WordNet) -> None:
    assert wordnet.first_sense("Welsh corgi") is None and wordnet.first_sense("corgi") == 1
    assert list(wordnet.chain(1)) == [1, 2]
    assert wordnet.synsets[1].words == ("corgi", "welsh corgi")


def test_a_folder_that_is_no_wordnet(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=r"data\.noun"):
        WordNet(tmp_path)
    (tmp_path / "data.noun").write_text("hello\n")
    (tmp_path / "index.noun").write_text("")
    with pytest.raises(VocabularyError, match=r"data\.noun"):
        WordNet(tmp_path)


def test_nothing_is_left_half_written(tmp_path: Path) -> None:
    with pytest.raises(AnytagError, match="cannot be written"):
        write_descriptions(tmp_path / "missing" / "d.jsonl", [Described(CAT, ("x",), "s")])
    assert list(tmp_path.iterdir()) == []
    write_descriptions(tmp_path / "d.jsonl", [Described(CAT, ("x",), "s")])
    expected = {"id": "cat", "name": "cat", "descriptions": ["x"], "source": "s"}
    assert json.loads((tmp_path / "d.jsonl").read_text()) == expected
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("rows", [[["cat"]], [{"cat": "text"}], [{"cat": [1]}]])
def test_another_form_than_the_published(rows: list[dict[str, list[str]]]) -> None:
    with pytest.raises(VocabularyError, match="entry 1"):
        from_published(rows)
