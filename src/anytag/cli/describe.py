"""`anytag describe`: write visual descriptions of tags."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anytag.cli import lists
from anytag.cli.bar import Bar, is_terminal
from anytag.cli.options import FiniteFloat
from anytag.cli.sinks import atomic_output, is_stdout, say
from anytag.progress import counted

if TYPE_CHECKING:
    from anytag.data.engine.describe import Cost, Journal
    from anytag.data.engine.llm import Endpoint
    from anytag.vocabulary import Vocabulary

_FILE = click.Path(dir_okay=False, path_type=Path)
_READABLE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_MAX_SHOWN = 5  # failures that are reported individually


@dataclass(frozen=True)
class _LlmOptions:
    """Options for requests to a language model."""

    model: str | None
    answers: int
    temperature: float
    max_tokens: int
    concurrency: int
    rate: float | None
    timeout: float
    attempts: int
    price: tuple[float, float] | None
    key_env: str
    yes: bool


@click.command("describe", short_help="Write descriptions of tags.")
@click.argument("tags", metavar="TAGS...", nargs=-1)
@click.option("--tags-from", metavar="FILE", type=_READABLE, help="Tags from a file, one name per line.")
@click.option("--vocabulary", metavar="FILE", type=_READABLE, help="Tags of a vocabulary.jsonl.")
@click.option(
    "--llm",
    metavar="BASE_URL",
    help="Base URL of an OpenAI-compatible endpoint; without it no model is used.",
)
@click.option("--model", metavar="NAME", help="The name of the language model.")
@click.option(
    "--answers", metavar="N", type=click.IntRange(1, 1000), default=10, show_default=True,
    help="Answers per question and tag.",
)  # fmt: skip
@click.option("--temperature", type=FiniteFloat(0, 2), default=0.99, show_default=True)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    default=77,
    show_default=True,
    help="Maximum tokens per answer.",
)
@click.option(
    "--concurrency", metavar="N", type=click.IntRange(min=1), default=8, show_default=True,
    help="Number of concurrent requests.",
)  # fmt: skip
@click.option(
    "--rate", metavar="N", type=FiniteFloat(min=0, min_open=True), help="Maximum requests per minute."
)
@click.option(
    "--timeout", metavar="SECONDS", type=FiniteFloat(min=0, min_open=True), default=60.0,
    show_default=True, help="Timeout of a request.",
)  # fmt: skip
@click.option(
    "--attempts", metavar="N", type=click.IntRange(min=1), default=6, show_default=True,
    help="Attempts per answer.",
)  # fmt: skip
@click.option(
    "--price",
    metavar="IN OUT",
    type=(FiniteFloat(min=0),) * 2,
    help="Price of a million input and output tokens.",
)
@click.option(
    "--key-env", metavar="NAME", default="OPENAI_API_KEY", show_default=True,
    help="The environment variable with the API key, the only way to give it.",
)  # fmt: skip
@click.option(
    "--wordnet", metavar="FOLDER", type=_FOLDER, help="Without --llm: add glosses from WordNet's files."
)
@click.option(
    "--output", metavar="FILE", type=_FILE, default=Path("descriptions.jsonl"), show_default=True,
    help="Where to write; - is stdout. Answers are stored in FILE.answers as they arrive.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only estimate requests, tokens and cost.")
@click.option("--yes", is_flag=True, help="Start without confirmation.")
def command(
    tags: tuple[str, ...],
    tags_from: Path | None,
    vocabulary: Path | None,
    llm: str | None,
    output: Path,
    wordnet: Path | None,
    dry_run: bool,
    **options: Any,
) -> None:
    """Write visual descriptions of tags, from which RAM++ and the embedded model make queries.

    With --llm a language model answers RAM++'s five questions about each tag, ten times each; answers are
    stored as they arrive, so the same command resumes an interrupted run. Without it, descriptions are made
    from templates, parent tags and, with --wordnet, glosses.

    Exit code: 0 success, 1 some answers are missing (the others are written), 2 invalid usage,
    130 interrupted.
    """
    from anytag.data.engine import describe
    from anytag.data.vocabulary.wordnet import WordNet

    described, llm_options = _tags(tags, tags_from, vocabulary), _LlmOptions(**options)
    if not is_stdout(output):
        inputs = [one for one in (tags_from, vocabulary) if one is not None]
        describe.check_outputs(output, inputs, described, with_model=llm is not None)
    elif llm is not None:
        raise click.UsageError("--llm stores answers beside the file: give --output FILE, not stdout.")
    if llm is None:
        if llm_options.model or dry_run:
            raise click.UsageError(
                "--model and --dry-run are for a language model: give its address with --llm."
            )
        folder = WordNet(wordnet) if wordnet else None
        with atomic_output(output) as file:
            describe.write_descriptions(Path(file), describe.without_model(described, wordnet=folder))
        say(f"{counted(len(described), 'row')} -> {output}", output)
        return
    _with_model(described, llm, output, dry_run, llm_options)


def _with_model(
    tags: Vocabulary, base_url: str, output: Path, dry_run: bool, llm_options: _LlmOptions
) -> None:
    from anytag.data.engine import describe, llm

    if not llm_options.model:
        raise click.UsageError("--llm needs the name of the model: --model NAME.")
    sampling = llm.Sampling(llm_options.model, llm_options.temperature, llm_options.max_tokens)
    journal = describe.Journal(describe.journal_of(output), sampling)
    cost = describe.estimate(tags, journal, answers=llm_options.answers)
    click.echo(_estimate(len(tags), cost, llm_options), err=True)
    if dry_run:
        return
    if cost.requests:
        _confirm(llm_options.yes)
        endpoint = llm.Endpoint(
            base_url,
            sampling,
            per_minute=llm_options.rate,
            timeout=llm_options.timeout,
            attempts=llm_options.attempts,
            key_variable=llm_options.key_env,
        )
        _ask(tags, endpoint, journal, llm_options)
    rows = list(describe.described_by_model(tags, journal, answers=llm_options.answers))
    describe.write_descriptions(output, rows)
    click.echo(f"{counted(len(rows), 'row')} -> {output}")
    if missing := sum(row.missing for row in rows):
        click.echo(f"{missing} answers are missing; run the same command again to get them.", err=True)
        click.get_current_context().exit(1)


def _ask(tags: Vocabulary, endpoint: Endpoint, journal: Journal, llm_options: _LlmOptions) -> None:
    """Request the answers with a progress bar, and report the first few failures."""
    from anytag.data.engine.describe import request_answers

    with Bar(transient=True) as bar:
        failures = request_answers(
            tags,
            endpoint,
            journal,
            answers=llm_options.answers,
            concurrency=llm_options.concurrency,
            report=bar,
        )
        for number, reason in enumerate(failures):
            if number < _MAX_SHOWN:
                click.echo(reason, err=True)


def _tags(names: Iterable[str], tags_from: Path | None, vocabulary: Path | None) -> Vocabulary:
    """All tags without duplicates, in the order given; the vocabulary's have their kinds and parents."""
    from anytag.errors import VocabularyError
    from anytag.parsing import default_lexicon, slug
    from anytag.parsing.lexicon import normal
    from anytag.queries.requests import parse_custom_tag
    from anytag.vocabulary import Kind, Tag, Vocabulary

    requested = [parse_custom_tag(name) for name in names if name.strip()]
    words = [tag.name for tag in [*requested, *(lists.tags(tags_from, "--tags-from") if tags_from else ())]]

    def kind_of(word: str) -> Kind:
        entry = default_lexicon().entry(normal(word))
        return entry[1] if entry else "object"

    found: dict[str, Tag] = {}
    for tag in (
        *(Tag(slug(word), word, kind_of(word)) for word in words),
        *(Vocabulary.read(vocabulary) if vocabulary else ()),
    ):
        earlier = found.get(tag.id, tag)
        if slug(earlier.name) != slug(tag.name) or _letters(earlier.name) != _letters(tag.name):
            raise VocabularyError(
                f"{earlier.name!r} and {tag.name!r} would both have the id {tag.id!r}: "
                "write them to two files"
            )
        found[tag.id] = tag
    if not found:
        raise click.UsageError("Name tags to describe, or give --tags-from FILE or --vocabulary FILE.")
    return Vocabulary(found.values())


def _letters(name: str) -> str:
    """Normalise a name: case, spaces and hyphens are ignored."""
    return "".join(name.lower().replace("-", " ").replace("_", " ").split())


def _estimate(tags: int, cost: Cost, llm_options: _LlmOptions) -> str:
    parts = [
        f"{counted(tags, 'tag')}: {cost.requests} answers to request, {cost.cached} stored",
        f"about {cost.tokens_in} input tokens, at most {cost.tokens_out} output tokens",
    ]
    if llm_options.price:
        parts.append(f"at most {cost.price(*llm_options.price):.2f} at this price")
    if llm_options.rate:
        parts.append(f"at least {cost.requests / llm_options.rate:.0f} minutes at this rate")
    return "; ".join(parts)


def _confirm(yes: bool) -> None:
    if yes:
        return
    if not is_terminal(sys.stdin):
        raise click.UsageError("Add --yes to start, or --dry-run to see only this estimate.")
    click.confirm("Start?", abort=True, err=True)
