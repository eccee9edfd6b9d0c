"""Descriptions of tags: from a language model as RAM++ asks it, or without one from WordNet and templates.

RAM++ (Huang et al., 2023, section 3.2): five questions about each tag, ten answers to each, and before them
"a photo of a TAG.". Each answer is kept in a journal as it comes, so that a run which is stopped goes on.
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

ANSWERS = 10
"""Answers to each question, as RAM++ has them."""
_LETTERS_A_TOKEN = 4.0  # English text in the tokenizers of chat models
_FRAME_TOKENS = 8  # what a chat's frame adds to a question


@dataclass(frozen=True, slots=True)
class Named:
    """A tag to describe: the id of its row, and the name it is asked by."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Request:
    """One answer to get: question and its number from 0, so that each of ten answers is kept by itself."""

    prompt: str
    number: int


@dataclass(frozen=True, slots=True)
class Described:
    """A tag's row of descriptions.jsonl; `missing` counts answers that the model did not give."""

    tag: Named
    descriptions: tuple[str, ...]
    source: str
    missing: int = 0

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.tag.id,
            "name": self.tag.name,
            "descriptions": list(self.descriptions),
            "source": self.source,
        }


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run will take at most.

    Attributes:
        requests: answers still to get.
        cached: answers that the journal has.
        tokens_in, tokens_out: of those requests; the first estimated by length, the second the limit.
    """

    requests: int
    cached: int
    tokens_in: int
    tokens_out: int

    def price(self, per_million_in: float, per_million_out: float) -> float:
        """In the currency of the two prices."""
        return (self.tokens_in * per_million_in + self.tokens_out * per_million_out) / 1e6


@dataclass
class Journal:
    """Answers on disk, a line each, added the moment they come; a line cut short by a crash is passed over.

    Args:
        path: the file; it need not be there yet.
        sampling: answers drawn otherwise are not taken for these.
    """

    path: Path
    sampling: Sampling
    answers: dict[Request, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        how = asdict(self.sampling)
        for row in _rows(self.path):
            if all(row.get(key) == value for key, value in how.items()):
                with suppress(KeyError, TypeError, AttributeError):
                    if text := description(row["answer"], row["prompt"]):  # else it is asked again
                        self.answers[Request(row["prompt"], row["number"])] = text

    def add(self, request: Request, answer: str) -> None:
        """Keeps an answer: in one write at the end of the file, so that it is there whole or not at all."""
        row = {**asdict(self.sampling), **asdict(request), "answer": answer}
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        with writing(self.path), self.path.open("ab+", buffering=0) as file:
            if file.tell() and _last_byte(self.path) != b"\n":
                line = b"\n" + line
            file.write(line)
        self.answers[request] = answer


def requests(tag: Named, answers: int = ANSWERS) -> list[Request]:
    """All answers to get of one tag: five questions, `answers` of each, in the order of the descriptions."""
    return [Request(prompt, number) for prompt in questions(tag.name) for number in range(answers)]


def estimate(tags: Iterable[Named], journal: Journal, *, answers: int = ANSWERS) -> Cost:
    """What describing these tags will take, with what the journal has taken off."""
    requested = {request for tag in tags for request in requests(tag, answers)}
    left = requested - journal.answers.keys()
    tokens = sum(round(len(request.prompt) / _LETTERS_A_TOKEN) + _FRAME_TOKENS for request in left)
    return Cost(len(left), len(requested) - len(left), tokens, len(left) * journal.sampling.max_tokens)


def ask(
    tags: Sequence[Named],
    endpoint: Endpoint,
    journal: Journal,
    *,
    answers: int = ANSWERS,
    concurrency: int = 8,
    report: Reporter = SILENT,
) -> Iterator[str]:
    """Gets every answer that the journal lacks into it; yields the reason for each that is missing.

    Args:
        tags: to describe.
        endpoint, journal: the first is asked, the second keeps what it says.
        answers: answers to each question.
        concurrency: requests at once.
        report: told of each answer.

    Raises:
        EndpointError: the endpoint refuses; what came before is in the journal.
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


def answered(tags: Iterable[Named], journal: Journal, *, answers: int = ANSWERS) -> Iterator[Described]:
    """Of each tag "a photo of a TAG." and the answers that the journal has, question by question."""
    for tag in tags:
        needed = requests(tag, answers)
        texts = [journal.answers[request] for request in needed if request in journal.answers]
        source = f"language model ({journal.sampling.model})"
        yield Described(tag, (plain_prompt(tag.name), *texts), source, missing=len(needed) - len(texts))


def without_model(
    tags: Iterable[Named], *, wordnet: WordNet | None = None, lexicon: Lexicon | None = None
) -> Iterator[Described]:
    """Of each tag "a photo of a TAG.", what it is a kind of, and WordNet's gloss if at hand."""
    lexicon = lexicon or default_lexicon()
    for tag in tags:
        texts = [plain_prompt(tag.name)]
        name = lexicon.canonical(normal(tag.name), "object")
        texts += [
            f"{tag.name}, a kind of {lexicon.display_name(above)}" for above in lexicon.parents(name)[:2]
        ]
        gloss = wordnet.gloss(tag.name) if wordnet else None
        if gloss:
            texts.append(f"{article(tag.name)} {tag.name} is {gloss}")
        yield Described(tag, tuple(texts), "WordNet 3.0 and templates" if gloss else "templates")


def write_descriptions(path: Path, rows: Iterable[Described]) -> None:
    """Writes descriptions.jsonl, whole or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_write(path) as draft, draft.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row.to_dict(), ensure_ascii=False) + "\n" for row in rows)


def check_outputs(path: Path, inputs: Iterable[Path]) -> None:
    """Whether descriptions may be written to `path`, and answers beside it: to be asked before the work.

    Raises:
        OutputError: one is an input, a photo by name, or something else than such files are.
    """
    names = [str(one) for one in inputs]
    refuse_output(str(path), names, is_lines_of("descriptions"), "a file of descriptions")
    answers = journal_of(path)
    refuse_output(str(answers), names, is_lines_of("answer"), "a file of answers")
    if not path.absolute().parent.is_dir():
        raise RefusedOutputError(f"{path} cannot be written: its folder is not there")


def journal_of(path: Path) -> Path:
    """Where answers are kept for the descriptions in `path`."""
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


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)
