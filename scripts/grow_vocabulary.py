"""Extend the vocabulary of a model folder with tags from text files.

    python scripts/grow_vocabulary.py MODEL_FOLDER WORDNET OUT [--tags scripts/vocabulary]

Each line of the files is a tag: name | kind | parents | synonyms | de | fr | es | zh | descriptions. Names,
parents, synonyms, translations and descriptions in scripts/vocabulary were written by a language model
(Claude, Anthropic, November 2026). WORDNET is the folder with data.noun and index.noun of WordNet 3.0, for
the hypernyms of ImageNet's classes. OUT gets vocabulary.jsonl, descriptions.jsonl and imagenet.json, as
written by scripts/build_vocabulary.py; existing names and synonyms are skipped.

names.tsv replaces names by common ones (a hog is a pig): id, name, words that mean something else and are not
synonyms. A tag that gets the name of another is merged with it. parents.tsv replaces broader tags that are
wrong.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import build_vocabulary  # type: ignore[import-not-found]  # a script beside this one
from build_vocabulary import THINGS, Builder, Nouns, hierarchy, slug, visible_parents
from timm.data.imagenet_info import ImageNetInfo

from anytag.vocabulary import Vocabulary

SOURCE = "language model (Claude, Anthropic), November 2026"
LANGUAGES = ("de", "fr", "es", "zh")
MAX_DESCRIPTIONS = 3
"""Descriptions per tag: with one more, the folder would have room for 600 fewer tags."""


def lines_of(folder: Path) -> Iterator[list[str]]:
    """Yield the fields of every tag, in the order of the files."""
    for file in sorted(folder.glob("*.txt")):
        for line in file.read_text(encoding="utf-8").splitlines():
            if line and not line.startswith("#"):
                fields = [field.strip() for field in line.split("|")]
                if len(fields) != 9:
                    raise SystemExit(f"{file}: {len(fields)} fields instead of 9: {line}")
                yield fields


def table(file: Path) -> Iterator[list[str]]:
    """Yield the fields of the lines of a tab-separated file, without comments."""
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            yield line.split("\t")


# Classes whose first name is ambiguous: a canoe is not paddling, a scale not climbing.
CLASSES = {
    308: "fly-object", 402: "acoustic-guitar", 472: "canoe", 725: "jug", 726: "hand-plane",
    738: "potted-plant", 751: "race-car", 778: "weighing-scale", 908: "airplane-wing", 950: "orange-object",
    998: "corn-on-the-cob",
}  # fmt: skip


def parts(text: str, mark: str) -> list[str]:
    return [part.strip() for part in text.split(mark) if part.strip()]


def shortened(line: str) -> str:
    """Truncate a line's descriptions to the first few."""
    tag = json.loads(line)
    return json.dumps({**tag, "descriptions": tag["descriptions"][:MAX_DESCRIPTIONS]}, ensure_ascii=False)


def classes_of(builder: Builder) -> list[str]:
    """The tag id of each of the thousand classes, by name; the second class of a name gets the second tag."""
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


def rename(builder: Builder, file: Path) -> dict[str, str]:
    """Give tags their common names.

    Returns:
        ids of merged tags -> ids of the tags that they were merged with.
    """
    merged: dict[str, str] = {}
    by_name = {(tag.name.lower(), tag.kind in THINGS): key for key, tag in builder.tags.items()}
    for fields in table(file):
        key, name, dropped, translations = (*fields, "", "")[:4]
        tag = builder.tags[key]
        other = by_name.get((name.lower(), tag.kind in THINGS), key)
        words = [word for word in (tag.name, *tag.synonyms) if word not in dropped.split(",")]
        if other != key:
            merged[key], tag = other, builder.tags[other]
            del builder.tags[key]
            words = [*tag.synonyms, *words]
        synonyms = dict.fromkeys(word for word in words if word.lower() != name.lower())
        names = {
            **tag.names,
            **(dict(zip(LANGUAGES, translations.split("|"), strict=True)) if translations else {}),
        }
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
        kinds_allowed = (
            THINGS if tag.kind in THINGS else ("attribute",)
        )  # a fish is not fishing, and a colour not a fruit
        kept = (parent for parent in tag.parents if kinds.get(parent) in kinds_allowed)
        builder.tags[tag.id] = replace(tag, parents=tuple(kept))
        # To scale is to climb, but a scale is not climbing: synonyms of actions may be names of things.
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
        translations = {language: word for language, word in zip(LANGUAGES, names, strict=True) if word}
        builder.tags[key] = replace(builder.tags[key], names=translations)
        new[key] = parts(parents_text, ",")
        line = {"id": key, "descriptions": parts(looks, ";"), "source": SOURCE}
        descriptions.append(json.dumps(line, ensure_ascii=False))
    for number, key in CLASSES.items():
        classes[number] = key
    build_vocabulary.BROADER.extend(builder.tags[key].name.replace(" ", "_") for key in new)
    _, parents = hierarchy(builder, classes, Nouns(args.wordnet))
    for key, above in new.items():
        missing = [name for name in above if name not in builder.tags and slug(name) not in builder.by_word]
        if missing:
            print(f"{key}: no tag {missing}")
        ids = [name if name in builder.tags else builder.by_word.get(slug(name), "") for name in above]
        things = (
            i for i in ids if i and i != key and builder.tags[i].kind != "action"
        )  # a fish is not fishing
        builder.tags[key] = replace(builder.tags[key], parents=tuple(things))
    for key in classes:  # add new broader tags
        tag = builder.tags[key]
        above = [p for p in visible_parents(key, parents.get(key, [])) if p in new and p not in tag.parents]
        above = [p for p in above if builder.tags[p].kind in THINGS]
        if key not in new:
            builder.tags[key] = replace(tag, parents=(*above, *tag.parents))
    for key, ids_text in table(args.tags / "parents.tsv"):  # in WordNet a toy dog is a toy
        builder.tags[key] = replace(builder.tags[key], parents=tuple(parts(ids_text, ",")))
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
