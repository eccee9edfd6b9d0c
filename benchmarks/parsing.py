"""Accuracy and speed of caption parsing: the lexicon's parser, and spaCy's where a model is installed.

    python benchmarks/parsing.py [--captions FILE] [--spacy NAME|FOLDER] [--show]

Precision and recall on the captions of tests/data, labelled by hand: `captions` were used while the rules
were written, `captions_unseen` were not. Speed on one core, on these captions or on those of FILE.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from anytag.errors import MissingExtraError
from anytag.parsing import Parser
from anytag.parsing.measure import Mistakes, measure, read_labelled
from anytag.parsing.parser import CaptionParser
from anytag.parsing.spacy import MODEL, SpacyParser, load_english

DATA = Path(__file__).resolve().parents[1] / "tests" / "data"
SETS = ("captions", "captions_unseen")
LENGTHS = (100, 1_000, 10_000, 100_000)
AT_LEAST = 20_000  # captions, so that the run takes seconds


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--captions", type=Path, help="captions for the speed measurement, one per line")
    options.add_argument("--spacy", default=MODEL, help="spaCy's model: its name or folder")
    options.add_argument(
        "--show", action="store_true", help="print every caption that is not parsed as labelled"
    )
    args = options.parse_args()
    parsers: dict[str, CaptionParser] = {"lexicon": Parser()}
    try:
        parsers["spaCy"] = SpacyParser(load_english(args.spacy))
    except MissingExtraError as error:
        print(f"Without spaCy: {error}.\n")
    quality(parsers, show=args.show)
    print()
    captions = args.captions.read_text("utf-8").splitlines() if args.captions else labelled_captions()
    speed(parsers["lexicon"], captions)


def quality(parsers: dict[str, CaptionParser], *, show: bool) -> None:
    """Print precision, recall and F1 by set, parser and group."""
    print("| captions | parser | group | precision | recall | F1 |\n|---|---|---|---:|---:|---:|")
    shown: list[tuple[str, Mistakes]] = []
    for name in SETS:
        labelled = read_labelled(DATA / f"{name}.tsv")
        for label, parser in parsers.items():
            found = measure(parser, labelled)
            shown.append((f"{name}, {label}", found))
            for group, score in found.scores.items():
                figures = " | ".join(f"{x:.3f}" for x in (score.precision, score.recall, score.f1))
                print(f"| {name} ({len(labelled)}) | {label} | {group} | {figures} |")
    for label, found in shown if show else ():
        print(f"\n{label}: + wrong, - missed")
        print("\n".join(f"  {caption}  {' '.join(odd)}" for caption, odd in found.lines))


def speed(parser: CaptionParser, captions: Sequence[str]) -> None:
    """Print captions per second on one core, and the time by caption length."""
    enough = [caption for caption in captions for _ in range(-(-AT_LEAST // len(captions)))]
    cpu = seconds(parser, enough)
    words = sum(len(caption.split()) for caption in enough) / len(enough)
    print(f"{len(enough) / cpu:,.0f} captions per second and core ({words:.1f} words each)\n")
    print("| characters | ms | µs per character |\n|---:|---:|---:|")
    text = " ".join(captions)
    for letters in LENGTHS:
        long = (text * (letters // len(text) + 1))[:letters]
        cpu = min(seconds(parser, [long]) for _ in range(3))
        print(f"| {letters:,} | {1e3 * cpu:.2f} | {1e6 * cpu / letters:.2f} |")


def seconds(parser: CaptionParser, captions: Sequence[str]) -> float:
    """Return the CPU seconds to parse captions, without loading the lexicon."""
    parser.parse("a dog")
    start = time.process_time()
    for caption in captions:
        parser.parse(caption)
    return time.process_time() - start


def labelled_captions() -> list[str]:
    return [row.caption for name in SETS for row in read_labelled(DATA / f"{name}.tsv")]


if __name__ == "__main__":
    main()
