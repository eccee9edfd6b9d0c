"""Grows the vocabulary of a model folder by tags that are written down in text files.

    python scripts/grow_vocabulary.py MODEL_FOLDER WORDNET OUT [--tags scripts/vocabulary]

A line of the files is a tag: name | kind | parents | synonyms | de | fr | es | zh | descriptions. Names,
parents, synonyms, translations and descriptions of scripts/vocabulary are a language model's wording (Claude,
Anthropic, November 2026). WORDNET is the folder with data.noun and index.noun of WordNet 3.0, which says what
ImageNet's classes are kinds of. OUT gets vocabulary.jsonl, descriptions.jsonl and imagenet.json, as
scripts/build_vocabulary.py writes them; a name or synonym that is there already adds nothing.

names.tsv gives tags the names that people use (a hog is a pig): id, name, words that mean something else and
are no synonyms. A tag that gets the name of another becomes one with it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import build_vocabulary  # type: ignore[import-not-found]  # a script beside this one
from build_vocabulary import THINGS, Builder, Nouns, below, fitting, slug
from timm.data.imagenet_info import ImageNetInfo

from anytag.vocabulary import Vocabulary

SOURCE = "language model (Claude, Anthropic), November 2026"
LANGUAGES = ("de", "fr", "es", "zh")
MOST = 4
"""Descriptions of a tag: a fifth changed figures by .0015 at most, for a sixth of the queries' size."""
# What WordNet calls a kind of it, and a photo does not show so: ids below ids.
NOT_BELOW = {
    "cutlery": "airplane airliner cleaver hatchet letter-opener",
    "outlet": "grocery-store bakery barbershop bookshop butcher-shop confectionery shoe-shop tobacco-shop "
    "toyshop",
    "hawk": "kite", "globe": "bubble", "jar": "vase beaker", "calculator": "abacus", "cream": "sunscreen",
    "shell": "breastplate pickelhaube", "key": "space-bar", "slot-machine": "vending-machine slot",
    "lamp": "candle", "upright": "maypole", "oar": "paddle-object", "roundabout": "merry-go-round",
    "pheasant": "peacock", "cracker": "pretzel", "ornament": "necklace totem-pole",
    "gear": "drilling-platform toolbox", "race-car": "racer", "car": "racer", "vehicle": "racer",
    "seat": "bench lawn-chair barber-chair rocking-chair studio-couch throne toilet-seat",
}  # fmt: skip


def lines_of(folder: Path) -> Iterator[list[str]]:
    """The fields of every tag, in the order of the files."""
    for file in sorted(folder.glob("*.txt")):
        for line in file.read_text(encoding="utf-8").splitlines():
            if line and not line.startswith("#"):
                fields = [field.strip() for field in line.split("|")]
                if len(fields) != 9:
                    raise SystemExit(f"{file}: {len(fields)} fields instead of 9: {line}")
                yield fields


# Classes whose first name is also that of something else: a canoe is no paddling, a scale no climbing.
CLASSES = {
    308: "fly-object", 402: "acoustic-guitar", 472: "canoe", 726: "hand-plane", 738: "potted-plant",
    751: "race-car", 778: "weighing-scale", 908: "airplane-wing", 950: "orange-object",
    998: "corn-on-the-cob",
}  # fmt: skip


def parts(text: str, mark: str) -> list[str]:
    return [part.strip() for part in text.split(mark) if part.strip()]


def shortened(line: str) -> str:
    """A line of descriptions with the first few alone."""
    tag = json.loads(line)
    return json.dumps({**tag, "descriptions": tag["descriptions"][:MOST]}, ensure_ascii=False)


def classes_of(builder: Builder) -> list[str]:
    """The tag id of each of the thousand classes: by name, of two of one name the second for the second."""
    info, used, ids = ImageNetInfo(), set[str](), []
    by_name: dict[str, list[str]] = {}
    for key, tag in builder.tags.items():
        for word in (tag.name, *tag.synonyms):
            by_name.setdefault(slug(word), []).append(key)
    for number in range(1000):
        names = [lemma.strip() for lemma in info.index_to_description(number).split(",")]
        found = [key for name in names for key in by_name.get(slug(name), ()) if key not in used]
        if not found:
            raise SystemExit(f"no tag is named {names}")
        ids.append(found[0])
        used.add(found[0])
    return ids


def may_be(key: str, broader: str) -> bool:
    """Whether a photo of one thing shows the other."""
    return key not in NOT_BELOW.get(broader, "").split()


def rename(builder: Builder, file: Path) -> dict[str, str]:
    """Gives tags the names that people use.

    Returns:
        the tags that became one with another: the other's id of each.
    """
    merged: dict[str, str] = {}
    by_name = {(tag.name.lower(), tag.kind in THINGS): key for key, tag in builder.tags.items()}
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        key, name, dropped, said = (*line.split("\t"), "", "")[:4]
        tag = builder.tags[key]
        other = by_name.get((name.lower(), tag.kind in THINGS), key)
        words = [word for word in (tag.name, *tag.synonyms) if word not in dropped.split(",")]
        if other != key:
            merged[key], tag = other, builder.tags[other]
            del builder.tags[key]
            words = [*tag.synonyms, *words]
        synonyms = dict.fromkeys(word for word in words if word.lower() != name.lower())
        names = {**tag.names, **(dict(zip(LANGUAGES, said.split("|"), strict=True)) if said else {})}
        builder.tags[other] = replace(tag, name=name, synonyms=tuple(synonyms), names=names)
        for word in dropped.split(","):
            if builder.by_word.get(slug(word)) == key:
                del builder.by_word[slug(word)]
        builder.by_word.update(dict.fromkeys(map(slug, (name, *synonyms)), other))
    for key, tag in builder.tags.items():
        above = dict.fromkeys(merged.get(parent, parent) for parent in tag.parents)
        builder.tags[key] = replace(tag, parents=tuple(parent for parent in above if parent != key))
    return merged


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("model", "wordnet", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--tags", type=Path, default=Path(__file__).with_name("vocabulary"))
    args = parser.parse_args()
    known = Vocabulary.read(args.model / "vocabulary.jsonl")
    builder = Builder()
    kinds = {tag.id: tag.kind for tag in known}
    for tag in known:
        kin = THINGS if tag.kind in THINGS else ("attribute",)  # no fish is fishing, and no colour a fruit
        kept = (parent for parent in tag.parents if kinds.get(parent) in kin and may_be(tag.id, parent))
        builder.tags[tag.id] = replace(tag, parents=tuple(kept))
        # To scale is to climb, and a scale is none: what actions are called besides is free for things.
        for word in (tag.name, *(tag.synonyms if tag.kind in THINGS else ())):
            builder.by_word.setdefault(slug(word), tag.id)
    classes = classes_of(builder)
    merged = rename(builder, args.tags / "names.tsv")
    classes = [merged.get(key, key) for key in classes]
    looks_of = (args.model / "descriptions.jsonl").read_text(encoding="utf-8").splitlines()
    descriptions = [shortened(line) for line in looks_of if json.loads(line)["id"] not in merged]
    new: dict[str, list[str]] = {}
    for name, kind, parents_text, synonyms, *names, looks in lines_of(args.tags):
        if slug(name) in builder.by_word:
            continue
        key = builder.add(name, kind, synonyms=tuple(parts(synonyms, ",")))
        said = {language: word for language, word in zip(LANGUAGES, names, strict=True) if word}
        builder.tags[key] = replace(builder.tags[key], names=said)
        new[key] = parts(parents_text, ",")
        line = {"id": key, "descriptions": parts(looks, ";"), "source": SOURCE}
        descriptions.append(json.dumps(line, ensure_ascii=False))
    for number, key in CLASSES.items():
        classes[number] = key
    build_vocabulary.BROADER.extend(builder.tags[key].name.replace(" ", "_") for key in new)
    _, parents = below(builder, classes, Nouns(args.wordnet))
    for key, above in new.items():
        missing = [name for name in above if name not in builder.tags and slug(name) not in builder.by_word]
        if missing:
            print(f"{key}: no tag {missing}")
        ids = [name if name in builder.tags else builder.by_word.get(slug(name), "") for name in above]
        things = (i for i in ids if i and i != key and builder.tags[i].kind != "action")  # no fish is fishing
        builder.tags[key] = replace(builder.tags[key], parents=tuple(things))
    for key in classes:  # what is new above them
        tag = builder.tags[key]
        above = [p for p in fitting(key, parents.get(key, [])) if p in new and p not in tag.parents]
        above = [p for p in above if builder.tags[p].kind in THINGS]
        if key not in new:
            both = (p for p in (*above, *tag.parents) if may_be(key, p))
            builder.tags[key] = replace(tag, parents=tuple(both))
    tags = Vocabulary(builder.tags.values())
    index = {key: number for number, key in enumerate(classes)}
    under: dict[str, list[int]] = {}
    for tag, broader in zip(tags, tags.broader, strict=True):
        if tag.id in index:
            for number in broader:
                under.setdefault(tags[number].id, []).append(index[tag.id])
    args.out.mkdir(parents=True, exist_ok=True)
    tags.write(args.out / "vocabulary.jsonl")
    (args.out / "descriptions.jsonl").write_text("\n".join(descriptions) + "\n", encoding="utf-8")
    (args.out / "imagenet.json").write_text(json.dumps({"classes": classes, "below": under}))
    print(f"{len(tags)} tags, {len(new)} of them new, {len(under)} broader than ImageNet classes")


if __name__ == "__main__":
    main()
