"""`anytag describe`: tags in, descriptions of how they look out."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anytag._io import read_text
from anytag.cli.bar import Bar, is_terminal
from anytag.cli.options import Number
from anytag.cli.sinks import is_stdout, say, whole

if TYPE_CHECKING:
    from anytag.data.engine.describe import Cost, Journal, Named
    from anytag.data.engine.llm import Endpoint

_FILE = click.Path(dir_okay=False, path_type=Path)
_READABLE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_SHOWN = 5  # failures told one by one


@dataclass(frozen=True)
class _Asking:
    """How a language model is asked."""

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
@click.option("--tags-from", metavar="FILE", type=_READABLE, help="Read tags from a file, one name per line.")
@click.option("--vocabulary", metavar="FILE", type=_READABLE, help="Use the tags of a vocabulary.jsonl.")
@click.option(
    "--llm", metavar="BASE_URL", help="An OpenAI-compatible endpoint; without it no language model is used."
)
@click.option("--model", metavar="NAME", help="Name of the language model.")
@click.option(
    "--answers", metavar="N", type=click.IntRange(1, 1000), default=10, show_default=True,
    help="Number of answers to each of the five questions.",
)  # fmt: skip
@click.option("--temperature", type=Number(0, 2), default=0.99, show_default=True)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    default=77,
    show_default=True,
    help="Maximum length of an answer.",
)
@click.option(
    "--concurrency", metavar="N", type=click.IntRange(min=1), default=8, show_default=True,
    help="Concurrent requests.",
)  # fmt: skip
@click.option(
    "--rate", metavar="N", type=Number(min=0, min_open=True), help="Maximum number of requests per minute."
)
@click.option(
    "--timeout", metavar="SECONDS", type=Number(min=0, min_open=True), default=60.0,
    show_default=True, help="Time limit of a request.",
)  # fmt: skip
@click.option(
    "--attempts", metavar="N", type=click.IntRange(min=1), default=6, show_default=True,
    help="Maximum number of requests for one answer.",
)  # fmt: skip
@click.option(
    "--price", metavar="IN OUT", type=(Number(min=0),) * 2, help="Price of a million tokens in and out."
)
@click.option(
    "--key-env", metavar="NAME", default="OPENAI_API_KEY", show_default=True,
    help="The environment variable that holds the key, which is the only way to pass it.",
)  # fmt: skip
@click.option(
    "--wordnet",
    metavar="FOLDER",
    type=_FOLDER,
    help="Without a language model: add glosses from WordNet's files.",
)
@click.option(
    "--output", metavar="FILE", type=_FILE, default=Path("descriptions.jsonl"), show_default=True,
    help="Where to write, - for stdout; answers are saved in FILE.answers as they arrive.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only print the estimated time and cost.")
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
    """Write descriptions of tags, which RAM++ and the embedded model use as queries.

    With --llm a language model answers RAM++'s five questions about each tag, ten times each. Answers are
    saved as they arrive, so the same command resumes a stopped run. Without it, descriptions are made from
    templates, broader tags and, with --wordnet, glosses.

    Exit code: 0 success, 1 some answers are missing (the rest is written), 2 usage error, 130 interrupted.
    """
    from anytag.data.engine import describe
    from anytag.data.vocabulary.wordnet import WordNet

    named, asking = _named(tags, tags_from, vocabulary), _Asking(**options)
    if not is_stdout(output):
        describe.check_outputs(output, [one for one in (tags_from, vocabulary) if one is not None])
    elif llm is not None:
        raise click.UsageError("--llm keeps answers beside the file: give --output FILE, not stdout.")
    if llm is None:
        if asking.model or dry_run:
            raise click.UsageError(
                "--model and --dry-run are about a language model: give its address by --llm."
            )
        folder = WordNet(wordnet) if wordnet else None
        with whole(output) as file:
            describe.write_descriptions(Path(file), describe.without_model(named, wordnet=folder))
        say(f"{len(named)} rows -> {output}", output)
        return
    _with_model(named, llm, output, dry_run, asking)


def _with_model(tags: list[Named], base_url: str, output: Path, dry_run: bool, asking: _Asking) -> None:
    from anytag.data.engine import describe, llm

    if not asking.model:
        raise click.UsageError("--llm needs the name of the model to ask: --model NAME.")
    sampling = llm.Sampling(asking.model, asking.temperature, asking.max_tokens)
    journal = describe.Journal(describe.journal_of(output), sampling)
    cost = describe.estimate(tags, journal, answers=asking.answers)
    click.echo(_estimate(len(tags), cost, asking), err=True)
    if dry_run:
        return
    if cost.requests:
        _agreed(asking.yes)
        endpoint = llm.Endpoint(
            base_url,
            sampling,
            per_minute=asking.rate,
            timeout=asking.timeout,
            attempts=asking.attempts,
            key_variable=asking.key_env,
        )
        _ask(tags, endpoint, journal, asking)
    rows = list(describe.described_by_model(tags, journal, answers=asking.answers))
    describe.write_descriptions(output, rows)
    click.echo(f"{len(rows)} rows -> {output}")
    if missing := sum(row.missing for row in rows):
        click.echo(f"{missing} answers are missing; run the same command again to get them.", err=True)
        click.get_current_context().exit(1)


def _ask(tags: list[Named], endpoint: Endpoint, journal: Journal, asking: _Asking) -> None:
    """Asks with a progress bar on a terminal; the first few failures are told."""
    from anytag.data.engine.describe import request_answers

    with Bar(passes=True) as bar:
        failures = request_answers(
            tags,
            endpoint,
            journal,
            answers=asking.answers,
            concurrency=asking.concurrency,
            report=bar,
        )
        for number, reason in enumerate(failures):
            if number < _SHOWN:
                click.echo(reason, err=True)


def _named(names: Iterable[str], tags_from: Path | None, vocabulary: Path | None) -> list[Named]:
    """All tags, each once, in the order given."""
    from anytag.data.engine.describe import Named
    from anytag.errors import VocabularyError
    from anytag.parsing import slug
    from anytag.queries.requests import parse_custom_tag
    from anytag.vocabulary import Vocabulary

    lines = read_text(tags_from).splitlines() if tags_from else []
    words = [parse_custom_tag(line).name for line in [*names, *lines] if line.strip()]
    rows: dict[str, Named] = {}
    for tag in (
        *(Named(slug(word), word) for word in words),
        *(Named(tag.id, tag.name) for tag in (Vocabulary.read(vocabulary) if vocabulary else ())),
    ):
        earlier = rows.setdefault(tag.id, tag)
        if slug(earlier.name) != slug(tag.name) or _letters(earlier.name) != _letters(tag.name):
            raise VocabularyError(
                f"{earlier.name!r} and {tag.name!r} would both have the id {tag.id!r}: "
                "describe them into two files"
            )
    found = list(rows.values())
    if not found:
        raise click.UsageError("Name tags to describe, or give --tags-from FILE or --vocabulary FILE.")
    return found


def _letters(name: str) -> str:
    """A name without what plays no part in it: case, spaces, hyphens."""
    return "".join(name.lower().replace("-", " ").replace("_", " ").split())


def _estimate(tags: int, cost: Cost, asking: _Asking) -> str:
    parts = [
        f"{tags} tags: {cost.requests} answers to get, {cost.cached} kept",
        f"about {cost.tokens_in} tokens in, at most {cost.tokens_out} out",
    ]
    if asking.price:
        parts.append(f"at most {cost.price(*asking.price):.2f} at this price")
    if asking.rate:
        parts.append(f"at least {cost.requests / asking.rate:.0f} minutes at this rate")
    return "; ".join(parts)


def _agreed(yes: bool) -> None:
    if yes:
        return
    if not is_terminal(sys.stdin):
        raise click.UsageError("Add --yes to begin, or --dry-run to see only this estimate.")
    click.confirm("Begin?", abort=True, err=True)
