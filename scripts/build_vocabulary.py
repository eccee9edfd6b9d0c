"""Build the vocabulary of the embedded model from captions, labels and ImageNet's classes.

    python scripts/build_vocabulary.py ROWS WORDNET OUT

ROWS is rows.jsonl from scripts/prepare_data.py (only train rows are used), WORDNET the folder with data.noun
and index.noun of WordNet 3.0, OUT a folder for vocabulary.jsonl (thresholds 0.5 until they are fitted) and
imagenet.json, the tag id of each of the thousand classes and, for each broader tag, the narrower classes.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from timm.data.imagenet_info import ImageNetInfo

from anytag.data.rows import Row, read_rows
from anytag.models.registry import EMBEDDED
from anytag.parsing import build_vocabulary, default_lexicon
from anytag.vocabulary import Tag, Vocabulary

MIN_COUNT = 20


def words(text: str) -> list[str]:
    return text.split()


# Found by reviewing candidates: words that the parser took for things or actions, but that are not visible.
NOT_TAGS = set(
    words(
        "facing working crossing covering holding helping come classic arms bars boards decoration fake hail "
        "race cards eats electronic examine operate grab relax work board dock shop light grind cast bow "
        "match bite stand swing trick hit board tow light pick pile covering post machine handle loading "
        "leading batter mounted come facing instrument heart tail hole body stool stone string strip strap "
        "sting string plane colors ring match pull-up string walk-up fork twin mini commuter vendor "
        "transport come cross fair"
    )
) - {"stool", "fork", "tail", "machine"}
# Hypernyms of the first sense, or of botany, that are wrong for photos.
NOT_ABOVE = {
    "fruit": words("ear corn acorn hip rapeseed buckeye"),
    "food": words("white plate cup feed hay menu dough hot-pot"),
    "beverage": ["cup"],
    "sweater": ["turtle"],
    "insect": ["fly-object"],
    "stick": words("paddle paddle-object paddle-object-2 crutch"),
    "round": ["merry-go-round"],
    "person": ["video-game-controller"],
    "clothing": ["turtle"],
    "animal": ["fly-object", "kite"],
    "bird": ["kite"],
    "tool": ["airplane"],
    "lighter": ["street-light", "traffic-light"],
}
THINGS = ("object", "scene")
BROADER = words(
    "animal dog vehicle bird food clothing reptile insect musical_instrument furniture snake fish tool "
    "monkey vegetable building home_appliance fruit car ball lizard beetle amphibian bottle fungus footwear "
    "butterfly spider boat truck weapon ship ape turtle clock cat fox crab computer bear aircraft wolf "
    "bridge fence drink dessert shark frog bread person bus telephone helmet flower camera rabbit duck "
    "guitar bicycle sheep eagle horse train toy airplane mammal marine_animal plant hat shoe container"
)


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


class Nouns:
    """WordNet's nouns: hypernyms of synsets, and senses of words."""

    def __init__(self, folder: Path) -> None:
        self.hypernyms: dict[int, list[int]] = {}
        for line in (folder / "data.noun").open(encoding="latin-1"):
            if not line.startswith("  "):
                fields = line.split("|")[0].split()
                self.hypernyms[int(fields[0])] = [
                    int(fields[i + 1]) for i, field in enumerate(fields) if field in ("@", "@i") and i > 3
                ]
        self.senses: dict[str, list[int]] = {}
        for line in (folder / "index.noun").open(encoding="latin-1"):
            if not line.startswith("  "):
                fields = line.split()
                self.senses[fields[0]] = [int(field) for field in fields[-int(fields[2]) :]]

    def chain(self, synset: int) -> Iterator[int]:
        """Yield the synset and all its hypernyms, nearest first."""
        todo, seen = [synset], set()
        while todo:
            at = todo.pop(0)
            if at not in seen:
                seen.add(at)
                yield at
                todo.extend(self.hypernyms[at])


class Builder:
    """Collects tags with unique ids; an existing name or synonym denotes the same tag."""

    def __init__(self) -> None:
        self.tags: dict[str, Tag] = {}
        self.by_word: dict[str, str] = {}

    def add(self, name: str, kind: str, *, synonyms: tuple[str, ...] = (), force: bool = False) -> str:
        known = self.by_word.get(slug(name))
        if known is not None and not force:
            return known
        key = slug(name)
        if key in self.tags and self.tags[key].kind != kind:  # orange the fruit and orange the colour
            key = f"{key}-{kind}"
        while key in self.tags:
            key += "-2"
        taken = {*self.by_word, slug(name)}
        free = tuple(s for s in dict.fromkeys(synonyms) if slug(s) not in taken)
        self.tags[key] = Tag(id=key, name=name, kind=kind, synonyms=free)  # type: ignore[arg-type]
        for word in (name, *free):
            self.by_word.setdefault(slug(word), key)
        return key


def add_captions(builder: Builder, rows: list[Row]) -> None:
    captions = (caption for row in rows for caption in row.captions)
    for found in build_vocabulary(captions, min_count=MIN_COUNT):
        if found.name not in NOT_TAGS:
            known = builder.tags.get(builder.by_word.get(slug(found.name), ""))
            other = known is not None and known.name == found.name and known.kind != found.kind
            builder.add(found.name, found.kind, synonyms=tuple(found.synonyms), force=other)


def add_labels(builder: Builder, rows: list[Row]) -> None:
    for row in rows:
        if row.source != "imagenet":
            for number, name in enumerate(row.tags):
                builder.add(name, "scene" if row.source == "sun" and number == 0 else "object")


def add_imagenet(builder: Builder) -> list[str]:
    """Add the thousand classes, and return the tag id of each, in the classifier's order."""
    info, ids, used = ImageNetInfo(), [], set[str]()
    for number in range(1000):
        lemmas = [lemma.strip() for lemma in info.index_to_description(number).split(",")]
        key = builder.add(lemmas[0], "object", synonyms=tuple(lemmas[1:]))
        if key in used:  # crane the bird and crane the machine: two tags with one name
            key = builder.add(lemmas[0], "object", synonyms=tuple(lemmas[1:]), force=True)
        used.add(key)
        ids.append(key)
    return ids


def hierarchy(
    builder: Builder, classes: list[str], nouns: Nouns
) -> tuple[dict[str, list[int]], dict[str, list[str]]]:
    """For each broader tag the narrower classes, and for each class's tag its broader tags, nearest first."""
    info = ImageNetInfo()
    chains = [list(nouns.chain(int(info.index_to_label_name(number)[1:]))) for number in range(1000)]
    weight = Counter(synset for chain in chains for synset in chain)
    by_synset: dict[int, str] = {}
    for key, tag in builder.tags.items():
        word = tag.name.lower().replace(" ", "_")
        senses = nouns.senses.get(word, []) if tag.kind in THINGS else []
        if word in BROADER:  # the turtle in ImageNet, not the sweater
            senses = sorted(senses, key=lambda synset: -weight[synset])
        if senses:
            by_synset.setdefault(senses[0], key)
    children: dict[str, list[int]] = {}
    parents: dict[str, list[str]] = {}
    for number, key in enumerate(classes):
        for synset in chains[number]:
            broad = by_synset.get(synset)
            if broad is not None and broad != key:
                children.setdefault(broad, []).append(number)
                if broad not in parents.setdefault(key, []):
                    parents[key].append(broad)
    return children, parents


def visible_parents(key: str, above: list[str]) -> list[str]:
    """Broader tags that also apply to a photo of the tag."""
    if "fruit" in above or "food" in above:  # a fruit, not the tree it grows on
        above = [p for p in above if p not in ("tree", "plant", "bush")]
    if "vehicle" in above or key == "vehicle":  # in WordNet a wheeled vehicle is a container
        above = [p for p in above if p != "container"]
    return [p for p in above if p != key and key not in NOT_ABOVE.get(p, ())]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=Path)
    parser.add_argument("wordnet", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    rows = [row for row in read_rows(args.rows) if row.split == "train"]
    builder, nouns, lexicon = Builder(), Nouns(args.wordnet), default_lexicon()
    add_captions(builder, rows)
    add_labels(builder, rows)
    for name in BROADER:
        builder.add(name.replace("_", " "), "object")
    classes = add_imagenet(builder)
    children, parents = hierarchy(builder, classes, nouns)
    tags = []
    for key, tag in builder.tags.items():
        # A class's synset is known; the sense of a word in captions is a guess.
        words = [builder.by_word[slug(p)] for p in lexicon.parents(tag.name) if slug(p) in builder.by_word]
        above = visible_parents(key, parents.get(key, [])) or visible_parents(key, list(dict.fromkeys(words)))
        above = [p for p in above if builder.tags[p].kind in THINGS]
        tags.append(
            replace(tag, parents=tuple(above) if tag.kind in THINGS else ())
        )  # a colour is not a fruit
    args.out.mkdir(parents=True, exist_ok=True)
    # Names in other languages are not part of the corpus; the embedded model's are kept.
    named = {tag.id: tag.names for tag in Vocabulary.read(EMBEDDED / "vocabulary.jsonl")}
    tags = [replace(tag, names=named.get(tag.id, {})) for tag in tags]
    Vocabulary(tags).write(args.out / "vocabulary.jsonl")
    (args.out / "imagenet.json").write_text(json.dumps({"classes": classes, "below": children}))
    print(f"{len(tags)} tags, {len(children)} broader than ImageNet classes")


if __name__ == "__main__":
    main()
