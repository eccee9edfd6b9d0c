"""Generate descriptions of tags with a language model, as for RAM++, or from WordNet and templates.

RAM++ (Huang et al., 2023, section 3.2): five questions about each tag, ten answers to each, preceded by "a
photo of a TAG.". Each answer is appended to a journal as it arrives, so that an interrupted run can be
resumed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from anytag._io import atomic_write, is_lines_of, writing
from anytag.data.answers import description
from anytag.data.engine.llm import Endpoint, Sampling
from anytag.data.io import refuse_output
from anytag.data.vocabulary.wordnet import WordNet
from anytag.errors import NoAnswerError, RefusedOutputError
from anytag.parsing import Lexicon, default_lexicon
from anytag.parsing.lexicon import normal
from anytag.progress import SILENT, Progress, Reporter
from anytag.text_encoders.prompts import article, plain_prompt, questions
from anytag.vocabulary import NOUN_KINDS, Tag, Vocabulary

ANSWERS = 10
"""Number of answers to each question, as for RAM++."""
_CHARS_PER_TOKEN = 4.0  # English text in the tokenizers of chat models
_CHAT_TOKENS = 8  # overhead of the chat format per question
_KEYS = ("id", "name", "descriptions", "source")


@dataclass(frozen=True, slots=True)
class Request:
    """A request for one answer: the question, and the number of the answer from 0."""

    prompt: str
    number: int


@dataclass(frozen=True, slots=True)
class Described:
    """A row of descriptions.jsonl; `missing` is the number of answers that the model did not give."""

    tag: Tag
    descriptions: tuple[str, ...]
    source: str
    missing: int = 0

    def to_dict(self) -> dict[str, Any]:
        values = self.tag.id, self.tag.name, list(self.descriptions), self.source
        return dict(zip(_KEYS, values, strict=True))


@dataclass(frozen=True, slots=True)
class Cost:
    """Upper bound of a run's cost.

    Attributes:
        requests: number of missing answers.
        cached: number of answers in the journal.
        tokens_in, tokens_out: of these requests; the former estimated from lengths, the latter the limit.
    """

    requests: int
    cached: int
    tokens_in: int
    tokens_out: int

    def price(self, per_million_in: float, per_million_out: float) -> float:
        """The price, in the currency of the two prices."""
        return (self.tokens_in * per_million_in + self.tokens_out * per_million_out) / 1e6


@dataclass
class Journal:
    """A file of answers, one per line, appended as they arrive; lines truncated by a crash are skipped.

    Args:
        path: the file; it need not exist.
        sampling: answers with other sampling parameters are ignored.
    """

    path: Path
    sampling: Sampling
    answers: dict[Request, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        how = asdict(self.sampling)
        for row, text in _answers(self.path):
            if all(row.get(key) == value for key, value in how.items()):
                with suppress(KeyError, TypeError):
                    self.answers[Request(row["prompt"], row["number"])] = text

    def add(self, request: Request, answer: str) -> None:
        """Append an answer, in a single write."""
        row = {**asdict(self.sampling), **asdict(request), "answer": answer}
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        with writing(self.path), self.path.open("ab+", buffering=0) as file:
            if file.tell() and _last_byte(self.path) != b"\n":
                line = b"\n" + line
            file.write(line)
        self.answers[request] = answer


def requests(tag: Tag, answers: int = ANSWERS) -> list[Request]:
    """All requests for one tag: five questions, `answers` of each, in the order of the descriptions."""
    return [Request(prompt, number) for prompt in questions(tag.name) for number in range(answers)]


def estimate(tags: Iterable[Tag], journal: Journal, *, answers: int = ANSWERS) -> Cost:
    """Estimate the cost of describing tags, without the answers in the journal."""
    requested = {request for tag in tags for request in requests(tag, answers)}
    left = requested - journal.answers.keys()
    tokens = sum(round(len(request.prompt) / _CHARS_PER_TOKEN) + _CHAT_TOKENS for request in left)
    return Cost(len(left), len(requested) - len(left), tokens, len(left) * journal.sampling.max_tokens)


def request_answers(
    tags: Iterable[Tag],
    endpoint: Endpoint,
    journal: Journal,
    *,
    answers: int = ANSWERS,
    concurrency: int = 8,
    report: Reporter = SILENT,
) -> Iterator[str]:
    """Request every missing answer and append it to the journal; yields the reason for each failure.

    Args:
        tags: to describe.
        endpoint: the language model.
        journal: receives the answers.
        answers: number of answers to each question.
        concurrency: number of simultaneous requests.
        report: receives the progress.

    Raises:
        EndpointError: the endpoint refuses; earlier answers are in the journal.
    """
    todo = dict.fromkeys(request for tag in tags for request in requests(tag, answers))
    missing = [request for request in todo if request not in journal.answers]
    left, done_so_far = iter(missing), 0
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="describe")
    running: dict[Future[str], Request] = {}
    try:
        while True:
            for request in left:
                read = partial(description, question=request.prompt)
                running[pool.submit(endpoint.answer, request.prompt, read=read)] = request
                if len(running) >= 2 * concurrency:
                    break
            if not running:
                return
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                request = running.pop(done)
                try:
                    journal.add(request, done.result())
                except NoAnswerError as error:
                    yield str(error)
                done_so_far += 1
                report.progress(Progress("Answers", done_so_far, len(missing), "answers"))
    finally:  # also when the endpoint refuses, or the user interrupts
        endpoint.close()
        pool.shutdown(wait=False, cancel_futures=True)


def described_by_model(
    tags: Iterable[Tag], journal: Journal, *, answers: int = ANSWERS
) -> Iterator[Described]:
    """For each tag "a photo of a TAG." and the answers in the journal, by question."""
    for tag in tags:
        needed = requests(tag, answers)
        texts = [journal.answers[request] for request in needed if request in journal.answers]
        source = f"language model ({journal.sampling.model})"
        yield Described(tag, (plain_prompt(tag.name), *texts), source, missing=len(needed) - len(texts))


def without_model(
    tags: Vocabulary, *, wordnet: WordNet | None = None, lexicon: Lexicon | None = None
) -> Iterator[Described]:
    """For each tag "a photo of a TAG.", two broader names, and for a noun WordNet's gloss if available."""
    lexicon = lexicon or default_lexicon()
    for tag in tags:
        texts = [plain_prompt(tag.name)]
        texts += [f"{tag.name}, a kind of {name}" for name in _broader(tag, tags, lexicon)[:2]]
        gloss = wordnet.gloss(tag.name) if wordnet and tag.kind in NOUN_KINDS else None
        if gloss:
            texts.append(f"{article(tag.name)} {tag.name} is {gloss}")
        yield Described(tag, tuple(texts), "WordNet 3.0 and templates" if gloss else "templates")


def _broader(tag: Tag, tags: Vocabulary, lexicon: Lexicon) -> Sequence[str]:
    """Broader names, nearest first: those of the vocabulary; if it has none, the lexicon's of a noun."""
    if (lineage := tags.lineage(tag.id)[-2::-1]) or tag.kind not in NOUN_KINDS:
        return lineage
    name = lexicon.canonical(normal(tag.name), tag.kind)
    return [lexicon.display_name(above) for above in lexicon.parents(name)]


def write_descriptions(path: Path, rows: Iterable[Described]) -> None:
    """Write descriptions.jsonl, atomically.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_write(path) as draft, draft.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row.to_dict(), ensure_ascii=False) + "\n" for row in rows)


_is_answers = is_lines_of(*Sampling.__slots__, *Request.__slots__, "answer")


def check_outputs(path: Path, inputs: Iterable[Path], tags: Vocabulary, *, with_model: bool) -> None:
    """Check, before the work, that descriptions of tags may be written to `path`, and answers to its journal.

    Raises:
        OutputError: one is an input, has the suffix of a photo, or exists; unless a language model is used,
            and the file has only rows of these tags with texts of its journal.
    """
    names, answers = [str(one) for one in inputs], journal_of(path)
    refuse_output(str(answers), names, _is_answers, "a file of answers")
    is_earlier = partial(_is_written_again, tags) if with_model else None
    refuse_output(str(path), names, is_earlier, f"made of the answers in {answers.name} for the same tags")
    if not path.absolute().parent.is_dir():
        raise RefusedOutputError(f"{path} cannot be written: its folder does not exist")


def _is_written_again(tags: Vocabulary, path: Path) -> bool:
    """Whether no row and no text of a file of descriptions would be lost if these tags are described anew."""
    answers = {text for _, text in _answers(journal_of(path))}
    rows = [json.loads(line) for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    return all(
        isinstance(row, dict)
        and row.keys() == set(_KEYS)
        and row["id"] in tags
        and row["descriptions"][:1] == [plain_prompt(row["name"])]
        and answers.issuperset(row["descriptions"][1:])
        for row in rows
    )


def journal_of(path: Path) -> Path:
    """Path of the journal for the descriptions in `path`."""
    return path.with_name(path.name + ".answers")


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    with path.open("rb") as lines:
        for line in lines:
            with suppress(ValueError):
                row = json.loads(line)
                if isinstance(row, dict):
                    yield row


def _answers(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Rows of a journal, each with its description; the others are requested again."""
    for row in _rows(path):
        with suppress(KeyError, TypeError, AttributeError):
            if text := description(row["answer"], row["prompt"]):
                yield row, text


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)
