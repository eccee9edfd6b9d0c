"""Distil Princeton WordNet 3.0 into the small lexicon that `anytag.parsing` ships.

    python scripts/build_lexicon.py --wordnet /usr/share/wordnet

Needs WordNet's database files (Debian: package wordnet-base). A noun is kept if most of its tagged uses, or
its first sense if it has none, are in a lexicographer file of visible things. Rows, tab-separated:

    n <name> <broader;broader>            a noun and the hypernyms of its first visible sense, nearest first
    N <form> <lemma>, V <form> <lemma>    irregular plurals and verb forms
"""

from __future__ import annotations

import argparse
import gzip
import re
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).resolve().parents[1] / "src" / "anytag" / "parsing" / "data"
# Lexicographer files (WordNet's lexnames) with visible nouns: animal, artifact, body, food, object, plant.
VISIBLE = frozenset({5, 6, 8, 13, 17, 20})
# The files for persons and substances contain many roles and abstract nouns: only words used in tagged texts.
WHEN_USED = frozenset({18, 27})
MIN_SHARE = 0.4
# Nouns ending in -ing that are things; others are treated as verb forms.
_THINGS_IN_ING = """
    building painting drawing clothing railing wedding dressing stuffing frosting icing topping
    stocking carving scaffolding bedding flooring siding awning ceiling coping paving planking
    roofing fencing
"""
THINGS_IN_ING = frozenset(_THINGS_IN_ING.split())
# Words whose sense in WordNet differs from their use in captions.
UNWANTED = frozenset({"airline", "clocks", "colors", "come", "cross_street", "downhill", "eats"})
# The words of the top file that are not abstract.
TOP = frozenset({"animal", "food", "person", "plant"})
# Hypernyms that are not useful as tags.
_DULL = """
    abstraction act artifact article being body cause chordate component causal_agent commodity
    compound consumer content covering creation decoration domestic_animal element entity equipment
    equine canine carnivore placental group implement instrumentality instrumentation living_thing
    matter mammal material mechanism natural_object object device container flat_solid stuff
    chemical tracheophyte vascular_plant wood instrument tube barrier enclosure relation
    electronic_device star body_of_water dirt lamp figure jar measuring_instrument vessel sheet
    strip line lineman natural_elevation geological_formation ridge excavation organism part
    physical_entity physical_object structure substance thing unit vertebrate whole way area surface
    agent organ solid fluid nutriment nutrition sustenance aliment comestible edible conveyance
    transport work product construction facility system worker leader communicator expert
    intellectual native inhabitant contestant unfortunate traveler traveller user
"""
DULL = frozenset(_DULL.split())


@dataclass(frozen=True)
class Synset:
    """A synset: its lexicographer file, words and direct hypernyms."""

    file: int
    words: tuple[str, ...]
    hypernyms: tuple[int, ...]


def read_synsets(path: Path) -> dict[int, Synset]:
    """Read a WordNet data file: offset -> synset."""
    synsets = {}
    for line in path.read_text(encoding="latin-1").splitlines():
        if line.startswith(" "):  # the licence precedes the data
            continue
        fields = line.split(" | ")[0].split()
        count = int(fields[3], 16)
        words = tuple(fields[4 : 4 + 2 * count : 2])
        pointers = fields[5 + 2 * count :]
        hypernyms = tuple(
            int(pointers[i + 1]) for i in range(0, len(pointers) - 3, 4) if pointers[i] in ("@", "@i")
        )
        synsets[int(fields[0])] = Synset(int(fields[1]), words, hypernyms)
    return synsets


def read_index(path: Path) -> dict[str, tuple[int, ...]]:
    """Read an index: lemma -> offsets of its senses, most frequent first."""
    index = {}
    for line in path.read_text(encoding="latin-1").splitlines():
        if not line.startswith(" "):
            fields = line.split()
            index[fields[0]] = tuple(int(offset) for offset in fields[-int(fields[2]) :])
    return index


def read_counts(path: Path) -> dict[str, dict[int, int]]:
    """Read counts: noun lemma -> lexicographer file -> number of uses in tagged texts."""
    counts: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for line in path.read_text(encoding="latin-1").splitlines():
        key, _, count = line.split()
        lemma, _, sense = key.partition("%")
        if sense.startswith("1:"):
            counts[lemma][int(sense.split(":")[1])] += int(count)
    return counts


def visible_sense(
    lemma: str, senses: list[Synset], offsets: tuple[int, ...], counts: dict[int, int]
) -> int | None:
    """Offset of the first visible sense; None if the word mostly means something else."""
    if lemma in TOP:
        return next(o for sense, o in zip(senses, offsets, strict=True) if sense.file == 3)
    used = sum(counts.values())
    allowed = VISIBLE | WHEN_USED if used else VISIBLE
    if used and sum(n for file, n in counts.items() if file in allowed) < MIN_SHARE * used:
        return None
    if not used and senses[0].file not in allowed:
        return None
    if not used and "_" in lemma and senses[0].file in (5, 20):  # a species that is rare in everyday texts
        return None
    for sense, offset in zip(senses, offsets, strict=True):
        spelled = {word.split("(")[0] for word in sense.words}
        # proper nouns and Latin genera are spelled with capitals
        if sense.file in allowed and lemma in spelled:
            return offset
    return None


def is_form(lemma: str, nouns: Collection[str], verbs: Collection[str]) -> bool:
    """Whether a noun is only a plural ("seats") or the -ing form of a verb ("hanging", "holding cell")."""
    if lemma.endswith("s") and not lemma.endswith("ss") and len(lemma) > 3 and lemma[:-1] in nouns:
        return True
    first = re.split("[_-]", lemma)[0]
    if not first.endswith("ing") or first in THINGS_IN_ING or len(first) < 6:
        return False
    stem = first.removesuffix("ing")
    return stem in verbs or f"{stem}e" in verbs or (stem[-1] == stem[-2] and stem[:-1] in verbs)


def broader(offset: int, synsets: dict[int, Synset], kept: dict[str, int], own: str) -> list[str]:
    """Kept hypernyms of a synset, nearest first: of each the first word that is kept in that sense."""
    names: list[str] = []
    level, seen = list(synsets[offset].hypernyms), {offset}
    while level:
        following: list[int] = []
        for hypernym in level:
            if hypernym in seen:
                continue
            seen.add(hypernym)
            words = [word for word in synsets[hypernym].words if kept.get(word) == hypernym and word != own]
            names += [word for word in words[:1] if word not in names and word not in DULL]
            following += synsets[hypernym].hypernyms
        level = following
    return names


def build(wordnet: Path) -> list[str]:
    """Rows of the lexicon, sorted."""
    synsets, index = read_synsets(wordnet / "data.noun"), read_index(wordnet / "index.noun")
    counts, verbs = read_counts(wordnet / "cntlist.rev"), read_index(wordnet / "index.verb").keys()
    kept: dict[str, int] = {}
    for lemma, offsets in index.items():
        if len(lemma) < 3 or any(c.isdigit() or c in "./'" for c in lemma) or lemma.count("_") > 2:
            continue
        if lemma in UNWANTED or is_form(lemma, index.keys(), verbs):
            continue
        sense = visible_sense(lemma, [synsets[o] for o in offsets], offsets, counts.get(lemma, {}))
        if sense is not None:
            kept[lemma] = sense
    rows = []
    for lemma, offset in sorted(kept.items()):
        above = broader(offset, synsets, kept, lemma)
        rows.append(f"n\t{lemma}\t{';'.join(above)}".replace("_", " "))
    return rows + irregular(wordnet / "noun.exc", "N", set(kept)) + irregular(wordnet / "verb.exc", "V", None)


def irregular(path: Path, letter: str, lemmas: set[str] | None) -> list[str]:
    """Rows of an exception list, optionally limited to some lemmas."""
    rows = []
    for line in path.read_text(encoding="latin-1").splitlines():
        form, lemma, *_ = line.split()
        if "_" not in form and (lemmas is None or lemma in lemmas) and form != lemma:
            rows.append(f"{letter}\t{form}\t{lemma}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Distil WordNet 3.0 into the lexicon of anytag.parsing.")
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"))
    parser.add_argument("--output", type=Path, default=DATA / "wordnet.tsv.gz")
    args = parser.parse_args()
    text = "\n".join(build(args.wordnet)) + "\n"
    with args.output.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed:
        packed.write(text.encode())
    print(f"{args.output}: {text.count(chr(10))} rows, {args.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
