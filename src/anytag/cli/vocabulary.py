"""`anytag vocabulary`: build a vocabulary from captions, with a review in between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anytag._io import read_text
from anytag.cli.options import FiniteFloat
from anytag.cli.sinks import atomic_output, is_stdout

if TYPE_CHECKING:
    from anytag.data.vocabulary.merging import Merge
    from anytag.parsing.build import Candidate, Tally
    from anytag.parsing.parser import CaptionParser
    from anytag.text_encoders import TextEncoder

_FILE = click.Path(dir_okay=False, path_type=Path)
_READABLE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_RECIPE = click.Choice(["ram", "tag2text"])


@click.group("vocabulary", short_help="Build a vocabulary from captions.")
def command() -> None:
    """Build a vocabulary: `candidates` writes a table from captions, you edit it, `build` reads it."""


@command.command("candidates", short_help="Write a table of candidates from captions.")
@click.argument("corpus", metavar="CORPUS...", nargs=-1, required=True, type=click.Path(allow_dash=True))
@click.option(
    "--output", metavar="FILE", type=_FILE, default=Path("candidates.tsv"), show_default=True,
    help="Where to write; - is stdout.",
)  # fmt: skip
@click.option("--report", metavar="FILE", type=_FILE, help="Also write an HTML page with plots.")
@click.option(
    "--min-count", metavar="N", type=click.IntRange(min=1), default=20, show_default=True,
    help="Minimum number of captions with a name.",
)  # fmt: skip
@click.option("--top", metavar="N", type=click.IntRange(min=1), help="Keep the N most frequent names.")
@click.option("--recipe", type=_RECIPE, help="The published sizes: --top 6449 for ram.")
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="Read only the first N photos.")
@click.option("--new", is_flag=True, help="Also find names that are not in the lexicon.")
@click.option(
    "--keep-new", is_flag=True, help="Keep these names; by default the table lists them as dropped."
)
@click.option("--spacy", is_flag=True, help="Parse captions with spaCy, which is slower.")
@click.option("--include", metavar="FILE", type=_READABLE, help="Names to keep in any case, one per line.")
@click.option("--exclude", metavar="FILE", type=_READABLE, help="Names to drop, one per line.")
@click.option(
    "--wordnet", metavar="FOLDER", type=_FOLDER, help="WordNet's files, to merge names of the same synset."
)
@click.option(
    "--similar", metavar="X", type=FiniteFloat(0, 1), default=0.8, show_default=True,
    help="Minimum cosine of two names' embeddings for merging them; 1 uses no embeddings.",
)  # fmt: skip
@click.option("--clip", metavar="NAME|FOLDER", help="Use CLIP's embeddings instead of the embedded table.")
def candidates(
    corpus: tuple[str, ...],
    output: Path,
    report: Path | None,
    min_count: int,
    top: int | None,
    recipe: str | None,
    limit: int | None,
    **options: Any,
) -> None:
    """Count the names in a corpus of captions, and propose what to keep, drop and merge.

    CORPUS is any data that `anytag data` reads, or a .txt with one caption per line. Photos with several
    captions show which names are synonyms: one says couch, another sofa.
    """
    from anytag.data.vocabulary import report as vocabulary_page
    from anytag.data.vocabulary import review

    lists = [str(one) for one in (options["include"], options["exclude"]) if one is not None]
    if report == output:
        raise click.UsageError("--report and --output are the same file: give two.")
    if not is_stdout(output):
        review.check_review(output, [*corpus, *lists])
    if report is not None and not is_stdout(report):
        vocabulary_page.check_page(report, [*corpus, *lists, str(output)])
    included, excluded = _names(options["include"]), _names(options["exclude"])
    tally = _tally(corpus, limit, spacy=options["spacy"], new=options["new"] or options["keep_new"])
    top = top or (review.RECIPES[recipe].top if recipe else None)
    found = tally.candidates(min_count=min_count, top=top, include=included)
    merges = _merges(found, tally, corpus, limit, options)
    rows = review.lines(
        found,
        merges,
        include=included,
        exclude=excluded,
        keep_new=options["keep_new"],
    )
    with atomic_output(output) as file:
        review.write_review(Path(file), rows)
    if report is not None:
        with atomic_output(report) as file:
            vocabulary_page.write_page(Path(file), rows)
    text = ", ".join(f"{count} {action}" for action, count in review.count_actions(rows))
    click.echo(
        f"{tally.captions} captions, {len(rows)} names: {text}. Edit {output}, then: anytag vocabulary build",
        err=True,
    )


@command.command("build", short_help="Build the vocabulary from the reviewed table.")
@click.argument("review", metavar="TABLE", type=_READABLE)
@click.option(
    "--output", metavar="FILE", type=_FILE, default=Path("vocabulary.jsonl"), show_default=True,
    help="Where to write; - is stdout.",
)  # fmt: skip
@click.option("--size", metavar="N", type=click.IntRange(min=1), help="Keep the N most frequent tags.")
@click.option("--recipe", type=_RECIPE, help="The published sizes: --size 4585 for ram, 3429 for tag2text.")
def build(review: Path, output: Path, size: int | None, recipe: str | None) -> None:
    """Build the vocabulary from a reviewed table."""
    from anytag.data.vocabulary import review as module

    if not is_stdout(output):
        module.check_vocabulary(output, [str(review)])
    size = size or (module.RECIPES[recipe].size if recipe else None)
    vocabulary = module.build(module.read_review(review), size=size)
    with atomic_output(output) as file:
        vocabulary.write(file)
    click.echo(f"{len(vocabulary)} tags in {output}", err=True)


def _tally(corpus: Sequence[str], limit: int | None, *, spacy: bool, new: bool) -> Tally:
    from anytag.parsing.build import Tally

    tally = Tally(_parser(spacy=spacy, new=new))
    for captions in _photos(corpus, limit):
        for caption in captions:
            tally.add(caption)
    return tally


def _parser(*, spacy: bool, new: bool) -> CaptionParser:
    from anytag.parsing import Parser

    if not spacy:
        return Parser(discover=new)
    from anytag.parsing.spacy import SpacyParser

    return SpacyParser(discover=new)


def _photos(corpus: Sequence[str], limit: int | None, *, again: bool = False) -> Iterable[Sequence[str]]:
    """Captions photo by photo; invalid rows are reported in the first pass."""
    from anytag.data import formats

    on_error = (lambda _: None) if again else _echo_error

    def stream() -> Iterator[Sequence[str]]:
        for path in corpus:
            if path.endswith(".txt"):
                yield from formats.lines_of(path)
            else:
                yield from (row.captions for row in formats.read(path, on_error=on_error))

    return islice(stream(), limit)


def _echo_error(message: str) -> None:
    click.echo(message, err=True)


def _merges(
    found: Sequence[Candidate],
    tally: Tally,
    corpus: Sequence[str],
    limit: int | None,
    options: dict[str, Any],
) -> list[Merge]:
    from anytag.data.vocabulary.merging import MergeRules, propose
    from anytag.data.vocabulary.wordnet import WordNet

    folder = options["wordnet"]
    return propose(
        found,
        tally.lexicon,
        wordnet=WordNet(folder) if folder else None,
        encoder=_encoder(options["clip"]) if options["similar"] < 1 else None,
        photos=lambda: _photos(corpus, limit, again=True),
        read=tally.names,
        rules=MergeRules(similarity=options["similar"]),
    )


def _encoder(clip: str | None) -> TextEncoder:
    if clip is not None:
        from anytag.torch.clip import ClipTextEncoder

        return ClipTextEncoder.load(clip)
    from anytag.models.registry import resolve
    from anytag.text_encoders import StaticTextEncoder

    return StaticTextEncoder.from_folder(resolve() / "text")


def _names(path: Path | None) -> list[str]:
    lines = read_text(path).splitlines() if path else []
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
