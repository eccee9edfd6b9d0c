"""Measure a parser against captions labelled by a person: precision and recall by kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from anytag.errors import AnytagError
from anytag.parsing.lexicon import Kind, Lexicon, normal
from anytag.parsing.parser import CaptionParser, ParsedTag

Group = Literal["things", "looks", "actions"]
GROUPS: tuple[Group, ...] = get_args(Group)
_GROUP_OF: Mapping[Kind, Group] = {
    "object": "things",
    "scene": "things",
    "attribute": "looks",
    "action": "actions",
}


@dataclass(frozen=True, slots=True)
class Labelled:
    """A caption and the names that a person extracted: things and places, looks, actions as verbs."""

    caption: str
    names: Mapping[Group, frozenset[str]]


@dataclass
class Score:
    """Counts of true positives, false positives and false negatives."""

    hits: int = 0
    wrong: int = 0
    missed: int = 0

    @property
    def precision(self) -> float:
        return self.hits / max(self.hits + self.wrong, 1)

    @property
    def recall(self) -> float:
        return self.hits / max(self.hits + self.missed, 1)

    @property
    def f1(self) -> float:
        return 2 * self.hits / max(2 * self.hits + self.wrong + self.missed, 1)


@dataclass
class Mistakes:
    """Scores by group, and for each caption false positives ("+") and false negatives ("-")."""

    scores: dict[Group, Score] = field(default_factory=lambda: defaultdict(Score))
    lines: list[tuple[str, list[str]]] = field(default_factory=list)


def read_labelled(path: Path) -> list[Labelled]:
    """Read rows `caption, things, looks, actions`, separated by tabs, names by commas; # starts a comment.

    Raises:
        AnytagError: a row has another number of columns.
    """
    rows = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            caption, *columns = line.split("\t")
            if len(columns) != len(GROUPS):
                raise AnytagError(f"{path}, line {number}: {len(columns) + 1} columns, expected 4")
            names = [frozenset(n.strip() for n in column.split(",") if n.strip()) for column in columns]
            rows.append(Labelled(caption, dict(zip(GROUPS, names, strict=True))))
    return rows


def measure(parser: CaptionParser, labelled: Iterable[Labelled]) -> Mistakes:
    """Compare a parser without a vocabulary to labels: names by their synonyms, actions by their verbs."""
    result = Mistakes()
    for row in labelled:
        predicted = _found(parser.parse(row.caption), parser.lexicon)
        mistakes: list[str] = []
        for group in GROUPS:
            expected = {_same(name, group, parser.lexicon) for name in row.names[group]}
            wrong, missed = _unmatched(predicted[group], expected)
            score = result.scores[group]
            score.hits += len(expected) - len(missed)
            score.wrong += len(wrong)
            score.missed += len(missed)
            mistakes += [f"+{name}" for name in wrong] + [f"-{name}" for name in missed]
        if mistakes:
            result.lines.append((row.caption, mistakes))
    return result


def _unmatched(predicted: set[str], expected: set[str]) -> tuple[list[str], list[str]]:
    """Names of one side only; a compound matches its head: "street musician", "musician"."""
    wrong, missed = sorted(predicted - expected), sorted(expected - predicted)
    for name in list(wrong):
        same = next((m for m in missed if m.endswith(f" {name}") or name.endswith(f" {m}")), None)
        if same is not None:
            wrong.remove(name)
            missed.remove(same)
    return wrong, missed


def _found(tags: Iterable[ParsedTag], lexicon: Lexicon) -> dict[Group, set[str]]:
    by_group: dict[Group, set[str]] = {group: set() for group in GROUPS}
    for tag in tags:
        group = _GROUP_OF[tag.kind]
        by_group[group].add(_same(tag.name, group, lexicon))
    return by_group


def _same(name: str, group: Group, lexicon: Lexicon) -> str:
    """The canonical name of a label or a tag; for an action its first verb."""
    name = normal(name)
    if group == "actions":
        first = lexicon.canonical(name, "action").split()[0]
        known = lexicon.inflection.verb(first)
        return lexicon.canonical(known[0] if known else first, "action").split()[0]
    kinds: tuple[Kind, ...] = ("attribute",) if group == "looks" else ("object", "scene")
    return next((n for kind in kinds if (n := lexicon.canonical(name, kind)) != name), name)
