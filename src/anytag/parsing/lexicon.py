"""The lexicon for parsing captions: nouns, actions, attributes, synonyms and inflections."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Literal

from anytag.parsing.inflection import Inflection

Kind = Literal["object", "scene", "attribute", "action"]
HYPHENATED = (
    "long-haired",
    "short-haired",
    "dark-haired",
    "red-haired",
    "curly-haired",
    "gray-haired",
    "t-shirt",
    "merry-go-round",
    "tie-dye",
    "go-kart",
    "t-bone",
)
_PREFERENCE: tuple[Kind, ...] = ("scene", "object", "attribute", "action")
KINDS: tuple[Kind, ...] = ("object", "scene", "attribute", "action")


@dataclass(frozen=True, eq=False)  # too large to compare: hashed by identity
class Lexicon:
    """The parser's knowledge of English. Names and synonyms are lower case, with single spaces between words.

    Attributes:
        kinds: all names that are tags, by kind.
        synonyms: kind -> (other word -> name).
        stop: nouns that are not tags.
        broader: noun -> broader nouns, nearest first.
        inflection: word forms -> lemmas.
        homographs: verbs that are not tags but are spelled like nouns.
        hyphenated: names that are usually written with hyphens -> that spelling.
    """

    kinds: Mapping[Kind, frozenset[str]]
    synonyms: Mapping[Kind, Mapping[str, str]]
    stop: frozenset[str]
    broader: Mapping[str, tuple[str, ...]]
    inflection: Inflection
    hyphenated: Mapping[str, str]
    homographs: frozenset[str] = frozenset()

    def kind(self, name: str) -> Kind | None:
        """The kind of a name, or None if it is not in the lexicon; scenes take precedence over objects."""
        return next((kind for kind in _PREFERENCE if name in self.kinds[kind]), None)

    def entry(self, word: str) -> tuple[str, Kind] | None:
        """The name and the kind of a name or synonym, or None; scenes take precedence over objects."""
        for kind in _PREFERENCE:
            if word in self.kinds[kind] or word in self.synonyms[kind]:
                return self.canonical(word, kind), kind
        return None

    def is_noun(self, word: str) -> bool:
        """Whether a singular noun is a tag or a synonym of one; stop-listed nouns are neither."""
        return any(word in self.kinds[kind] or word in self.synonyms[kind] for kind in ("object", "scene"))

    def is_animate(self, noun: str) -> bool:
        """Whether a noun is a person or an animal."""
        name = self.canonical(noun, "object")
        return name in ("person", "animal") or not {"person", "animal"}.isdisjoint(self.parents(name))

    def is_attribute(self, word: str) -> bool:
        return word in self.kinds["attribute"] or word in self.synonyms["attribute"]

    def display_name(self, name: str) -> str:
        """A name as it is written, with its hyphens."""
        return self.hyphenated.get(name, name)

    def parents(self, name: str) -> tuple[str, ...]:
        """Broader names of a noun, nearest first."""
        return self.broader.get(name, ())

    def canonical(self, word: str, kind: Kind) -> str:
        """The name for a word of this kind: itself, or the name of which it is a synonym."""
        return self.synonyms[kind].get(word, word)


@cache
def default_lexicon() -> Lexicon:
    """The lexicon that ships with anytag, loaded once."""
    data = files(__package__) / "data"
    nouns: dict[str, tuple[str, ...]] = {}
    irregular: dict[str, dict[str, str]] = {"N": {}, "V": {}}
    for row in gzip.decompress((data / "wordnet.tsv.gz").read_bytes()).decode().splitlines():
        letter, word, rest = row.split("\t")
        if letter == "n":
            nouns[normal(word)] = tuple(normal(above) for above in rest.split(";") if above)
        else:
            irregular[letter].setdefault(word, rest)
    acts = frozenset(_words(data / "acts.txt"))
    scenes, stop = frozenset(_words(data / "scenes.txt")), frozenset(_words(data / "stop.txt"))
    listed = set(_words(data / "objects.txt"))
    attributes, actions = set(_words(data / "attributes.txt")), set(_words(data / "actions.txt"))
    synonyms = _synonyms(data / "synonyms.txt", scenes)
    attributes |= set(synonyms["attribute"].values())
    actions |= set(synonyms["action"].values())
    attribute_words = attributes | set(synonyms["attribute"])
    # WordNet's "red wine", "small boat", "big cat": the adjective is a separate tag, so these are not names.
    adjectives = attribute_words | stop
    plain = {noun for noun in nouns if " " not in noun or not adjectives.intersection(noun.split())}
    objects = ((plain | set(synonyms["object"].values())) - stop - scenes - attribute_words - acts) | listed
    all_words = objects | scenes | stop | set(synonyms["object"]) | set(synonyms["scene"])
    verbs = actions | set(synonyms["action"])
    homographs = frozenset(_words(data / "mute.txt")) - verbs
    return Lexicon(
        kinds={
            "object": frozenset(objects - set(synonyms["object"]) - set(synonyms["scene"]) - scenes),
            "scene": scenes - set(synonyms["scene"]),
            "attribute": frozenset(attributes - set(synonyms["attribute"])),
            "action": frozenset(actions - set(synonyms["action"])),
        },
        synonyms=synonyms,
        stop=stop - listed - scenes,
        broader=_broader(
            nouns, _chains(data / "parents.txt", listed, nouns), synonyms, stop - listed - scenes
        ),
        inflection=Inflection(
            nouns=frozenset(all_words),
            verbs=frozenset({*_first_words(verbs, objects), *homographs}),
            plurals=irregular["N"] | _table_of_one(data / "plurals.txt"),
            verb_forms=irregular["V"],
        ),
        hyphenated={normal(name): name for name in HYPHENATED},
        homographs=homographs - verbs,
    )


def _lines(source: Traversable) -> Iterator[str]:
    for line in source.read_text("utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            yield line


def _words(source: Traversable) -> Iterator[str]:
    """Yield the words of a comma-separated list file."""
    for line in _lines(source):
        yield from (normal(word) for word in line.split(",") if word.strip())


def _table(source: Traversable) -> dict[str, tuple[str, ...]]:
    """Read rows `word: other, other`."""
    table = {}
    for line in _lines(source):
        head, _, rest = line.partition(":")
        table[normal(head)] = tuple(normal(word) for word in rest.split(",") if word.strip())
    return table


def _chains(source: Traversable, listed: set[str], nouns: Mapping[str, object]) -> dict[str, tuple[str, ...]]:
    """Listed hypernym chains; a compound without one is a kind of its last word: wine bottle -> bottle."""
    table = _table(source)
    for name in sorted(listed):
        head = name.rpartition(" ")[2]
        if name not in table and name not in nouns and head != name and (head in listed or head in nouns):
            table[name] = (head, *table.get(head, ()))
    return table


def _first_words(actions: set[str], objects: set[str]) -> Iterator[str]:
    """Yield the verbs of actions; a longer action may start with a noun ("water ski") instead."""
    for action in actions:
        first, _, rest = action.partition(" ")
        if not rest or first in actions or first not in objects:
            yield first


def _table_of_one(source: Traversable) -> dict[str, str]:
    return {form: lemmas[0] for form, lemmas in _table(source).items()}


def normal(text: str) -> str:
    """Normalise to lower case, with hyphens and runs of spaces as one space."""
    return " ".join(text.lower().replace("-", " ").split())


def slug(text: str) -> str:
    """The id of a name: lower-case letters and digits of any script, with everything else as one hyphen."""
    return re.sub(r"[\W_]+", "-", text.lower()).strip("-") or text


def _synonyms(source: Traversable, scenes: frozenset[str]) -> dict[Kind, dict[str, str]]:
    table: dict[Kind, dict[str, str]] = {kind: {} for kind in KINDS}
    for head, others in _table(source).items():
        name, _, names = head.partition(" @")
        kind = next((kind for kind in KINDS if kind == names), "scene" if name in scenes else "object")
        for other in others:
            if other != name:
                table[kind][other] = name
    return table


def _broader(
    nouns: Mapping[str, tuple[str, ...]],
    listed: Mapping[str, tuple[str, ...]],
    synonyms: Mapping[Kind, Mapping[str, str]],
    stop: frozenset[str],
) -> dict[str, tuple[str, ...]]:
    """Merge hypernym chains; listed ones take precedence and continue WordNet's."""
    same = {**synonyms["object"], **synonyms["scene"]}
    table: dict[str, tuple[str, ...]] = dict(listed)
    for noun, above in nouns.items():
        name = same.get(noun, noun)
        if name in listed:
            continue
        chain: dict[str, None] = {}
        for raw in above:
            word = same.get(raw, raw)
            if word not in stop and word != name:
                chain[word] = None
                if word in listed:
                    chain.update(dict.fromkeys(listed[word]))
                    break
        if name == noun or name not in table:
            table[name] = tuple(chain)
    return {name: chain for name, chain in table.items() if chain}
