"""Unpack the training photos into one folder with one rows.jsonl.

    python scripts/prepare_data.py DATA OUT [--coco FOLDER] [--more FOLDER] [--objects FOLDER]
        [--words FOLDER] [--vocabulary FOLDER] [--wordnet FOLDER]

DATA contains flickr8k/ and broad/ (tar shards with captions.jsonl and labels.jsonl). --coco is a folder with
COCO photos as data/NNN.jpg, train.csv (ImageID,Labels,Caption) and test.csv (ImageID,Caption);
near-duplicates of evaluation photos (difference hash, 24 of 256 bits) are left out. --more is a folder of
labelled photos from many collections: photos/ and rows.jsonl (image, source, tags, truth). A tenth of it and
of COCO is held out, half for calibration (split "dev") and half for evaluation ("val"); the collections in
FOREIGN are held out completely ("test"). --objects is a checkout with photos of single objects on white in
folders by category: "Massive Memory" (Konkle, Brady, Alvarez and Oliva, 2010). --words contains checkouts
of the repositories of photos/repositories.tsv, whose photos, or the folders of photos, are named after what
they show; those of objects and scenes of the vocabulary in --vocabulary (default: the embedded model's) are
used. --wordnet, the folder with index.noun of WordNet 3.0, is used to split names written without spaces.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

import numpy as np
from PIL import Image

from anytag._typing import Bytes
from anytag.data.duplicates import groups, near
from anytag.data.rows import Row, write_rows
from anytag.images.likeness import HASH_BYTES, difference_hash
from anytag.models.registry import EMBEDDED
from anytag.vocabulary import Tag, Vocabulary

COCO_18 = {
    1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train", 8: "truck",
    9: "boat", 10: "traffic light", 11: "fire hydrant", 13: "stop sign", 14: "parking meter", 15: "bench",
    16: "bird", 17: "cat", 18: "dog", 19: "horse",
}  # fmt: skip
# Each photo of these sources shows one of the source's classes, so its other classes are absent.
EXCLUSIVE = ("sun", "food101", "grocery")
# Collections that are not used for training or fitting: isolated objects, and rooms.
FOREIGN = ("cutouts", "painting-finder", "nyu")
TWICE = "coco-40k"  # photos that are also in --coco, with captions
JOINED = "cutouts"  # names are written without spaces
# Collections of photographs only, many of them on white backgrounds like drawings; and the media they are
# not.
PHOTOGRAPHS = (
    "instruments30", "office", "office8", "school", "trashnet", "grocery", "food101-10", "food101-3",
    "pizza-icecream", "clothing", "popular-animals", "monkey10", "sports22", "idenprof", "flowers5",
    "sketchy",
)  # fmt: skip
MEDIA = ("art", "drawing", "cartoon", "clip art", "sketch")
# Fewer than `anytag.suffixes` has, so that the rows are those that version 8 was trained on.
SUFFIXES = (".jpg", ".jpe", ".jpeg", ".png", ".webp")
SAME_BITS = 3
"""Maximum number of differing bits of copies of a photo: photos of small things on white differ by few."""
PHOTOS = Path(__file__).with_name("photos")
PER_FOLDER = 120
"""Photos of one folder at most, where folders are named after what the photos show."""
ANIMALS = ("animal", "marine-animal", "turtle", "bat", "ray")
OBJECTS = "massive-memory"
OBJECT_FOLDERS = ("All_stims", "Size_stims")
# Its categories whose names mean something else in the vocabulary, or are not in it; None: left out.
OBJECT_NAMES = {
    "army guy": "toy soldier", "babushka dolls": "nesting doll", "barbie doll": "doll",
    "baseball cards": "card", "bill": "banknote", "bonzai": "bonsai", "bread loaf": "bread",
    "candle holder with candles": "candle holder", "carfront": "car", "cherub statue": "statue",
    "chess board": "chessboard", "christmas tree ornamant ball": "christmas ornament", "computer key": None,
    "cooking pan": "frying pan", "cookpot": "pot", "cooler": None, "crane": "construction crane",
    "cup saucer": "cup", "decorative screen": "screen", "deskchair": "office chair", "earings": "earring",
    "easter egg redo": "easter egg", "exercise equipment": None, "fish hook": "hook",
    "garbage trash": "garbage can", "grill": "barbecue grill", "hand held game": "handheld game console",
    "jack-o-lantern": "jack-o'-lantern", "keyboard": "computer keyboard", "lei": "garland",
    "magazine covers": "magazine", "makeup compact": "makeup", "mp3 player": "iPod", "nunchaku": "weapon",
    "orifan": "folding fan", "patio lounge chair": "lawn chair", "pipe": None, "poker card": "playing card",
    "salt pepper shake": "saltshaker", "sippy cup": "cup", "small table": "table", "stamp": "postage stamp",
    "toy horse": "toy", "toy rabbit": "stuffed animal", "trunk": "chest",
}  # fmt: skip


def share(image: str) -> str:
    """The split of a photo whose collection has none: a twentieth each is "dev" and "val"."""
    return {0: "dev", 10: "val"}.get(zlib.crc32(image.encode()) % 20, "train")


def unpack(folder: Path, out: Path) -> None:
    """Extract the photos of every shard in `folder` to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    for shard in sorted(folder.glob("photos-*.tar")):
        with tarfile.open(shard) as tar:
            tar.extractall(out, filter="data")


def flickr8k(data: Path) -> Iterator[Row]:
    for line in (data / "captions.jsonl").open(encoding="utf-8"):
        row = json.loads(line)
        yield Row(f"flickr8k/{row['id']}.jpg", "flickr8k", row["split"], captions=tuple(row["captions"]))


def broad(data: Path) -> Iterator[Row]:
    rows = [json.loads(line) for line in (data / "labels.jsonl").open(encoding="utf-8")]
    classes = {source: {row["tags"][0] for row in rows if row["source"] == source} for source in EXCLUSIVE}
    classes["coco"] = set(COCO_18.values())
    for row in rows:
        absent = sorted(classes.get(row["source"], set()) - set(row["tags"]))
        captions = (row["caption"],) if "caption" in row else ()
        image, tags = f"broad/{row['id']}.jpg", tuple(row["tags"])
        yield Row(image, row["source"], row["split"], captions, tags, tuple(absent))


@cache  # photos kept for evaluation are compared with more than one group of rows
def hash_of(path: Path) -> Bytes | None:
    """The difference hash of a photo; None, with a message, if it can't be read."""
    try:
        with Image.open(path) as image:
            image.draft("L", (34, 32))
            return difference_hash(image)
    except OSError as error:
        print(f"{path}: left out ({error})", file=sys.stderr)
        return None


def hashes(rows: Iterable[Row], root: Path) -> tuple[list[Row], Bytes]:
    """The rows of readable photos, and their difference hashes N×32."""
    found = [(row, code) for row in rows if (code := hash_of(root / row.image)) is not None]
    return [row for row, _ in found], np.array([code for _, code in found], np.uint8).reshape(-1, HASH_BYTES)


def coco(folder: Path) -> Iterator[Row]:
    for name in ("train.csv", "test.csv"):
        for fields in csv.DictReader((folder / name).open(encoding="utf-8")):
            tags = tuple(COCO_18[int(n)] for n in fields.get("Labels", "").split())
            absent = tuple(sorted(set(COCO_18.values()) - set(tags))) if "Labels" in fields else ()
            image = f"coco/data/{fields['ImageID']}"
            yield Row(image, "coco-more", share(image), (fields["Caption"],), tags, absent)


def nouns_of(wordnet: Path) -> dict[str, str]:
    """WordNet's nouns, by their spelling without spaces."""
    lines = (wordnet / "index.noun").read_text(encoding="utf-8").splitlines()
    names = (line.split(" ", 1)[0].replace("_", " ") for line in lines if not line.startswith(" "))
    return {name.replace(" ", ""): name for name in names}


def spaced(name: str, nouns: dict[str, str]) -> str:
    """Split a name into words, "officechair" -> "office chair", "skihelmet" -> "ski helmet"."""
    if name in nouns:
        return nouns[name]
    cuts = [at for at in range(3, len(name) - 2) if name[:at] in nouns and name[at:] in nouns]
    at = max(cuts, key=lambda at: min(at, len(name) - at), default=None)
    return name if at is None else f"{nouns[name[:at]]} {nouns[name[at:]]}"


def more(folder: Path, nouns: dict[str, str]) -> Iterator[Row]:
    """Rows of many collections; tags that a row lacks are absent if the collection's labels are complete."""
    found = [json.loads(line) for line in (folder / "rows.jsonl").open(encoding="utf-8")]
    for row in found:  # some names were derived from file names
        row["tags"] = [name.removesuffix(" jpeg") for name in row["tags"]]
        if row["source"] == JOINED:
            row["tags"] = [spaced(name, nouns) for name in row["tags"]]
    closed: dict[str, set[str]] = {}
    for row in found:
        if row["truth"].startswith("complete"):
            closed.setdefault(row["source"], set()).update(row["tags"])
    for row in found:
        image, source = f"more/{row['image']}", row["source"]
        split = "test" if source in FOREIGN else share(image)
        absent = sorted(closed.get(source, set()) - set(row["tags"]))
        absent += MEDIA if source in PHOTOGRAPHS else ()
        if source != TWICE:
            yield Row(image, source, split, (), tuple(row["tags"]), tuple(absent))


def objects(folder: Path) -> Iterator[Row]:
    """Rows of photos of single objects, in folders by category."""
    for file in (file for part in OBJECT_FOLDERS for file in sorted(folder.glob(f"*/*/Stimuli/{part}/**/*"))):
        if file.suffix.lower() in SUFFIXES and not file.parent.name.startswith("Z_"):
            category = file.parent.parent.name if file.parent.name == "TestItems" else file.parent.name
            name, image = OBJECT_NAMES.get(category, category), f"objects/{file.relative_to(folder)}"
            if name:
                yield Row(image, OBJECTS, share(image), (), (name,), MEDIA)


class WordPhotos:
    """Tags of photos that are named after what they show: the objects and scenes of a vocabulary.

    A photo's name is one of a tag's names, in singular or plural, or with spaces left out. `photos/names.tsv`
    overrules these for words with another meaning. The table of repositories names those whose words are
    another language's, in a file with their tags, those whose animals are named by species
    ("asian-elephant"), and those of which the folders of photos are named.
    """

    def __init__(self, vocabulary: Vocabulary, nouns: dict[str, str]) -> None:
        # Not `Vocabulary.find`, which finds ids and other languages: the corgi's id is "cardigan".
        tags = [tag for tag in vocabulary if tag.kind in ("object", "scene")]
        synonyms = {key(word): tag for tag in reversed(tags) for word in tag.synonyms}
        self.tags = synonyms | {key(tag.name): tag for tag in reversed(tags)}
        self.named = {key(tag.name): tag for tag in vocabulary}
        self.nouns = nouns
        self.names, self.folders = names_of("names.tsv"), names_of("folders.tsv")
        self.animals = set(vocabulary.find_all([id for id in ANIMALS if id in vocabulary]))

    def rows(self, folder: Path) -> Iterator[Row]:
        """Rows of the photos of `folder`, which contains the repositories as OWNER+NAME, named one by one."""
        for one, root in checkouts(folder, by_folder=False):
            for photo, tag in self._photos(root / one.folder, one.names):
                yield row_of(photo, "words", tag, folder)

    def classes(self, folder: Path) -> Iterator[Row]:
        """Rows of the photos of `folder` that are in folders named after what they show."""
        for one, root in checkouts(folder, by_folder=True):
            for photo, tag in self._folders(root, root / one.folder):
                yield row_of(photo, "classes", tag, folder)

    def _photos(self, place: Path, names: str) -> Iterator[tuple[Path, Tag]]:
        """The photos of a folder, or one photo, that are named after a tag."""
        own = names_of(names) if names.endswith(".tsv") else None
        for photo in [place] if place.is_file() else photos_of(sorted(place.rglob("*"))):
            if own is not None:
                tag = self.tags.get(own.get(key(photo.stem), ""))
            else:
                tag = self.find(photo.stem, species=names == "species")
            if tag:
                yield photo, tag

    def _folders(self, root: Path, place: Path) -> Iterator[tuple[Path, Tag]]:
        """Photos of the folders in `place` that are named after a tag, or that photos/folders.tsv names."""
        for folder in sorted(path for path in place.rglob("*") if path.is_dir()):
            name = self.folders.get(key(str(folder.relative_to(root))))
            tag = self.find(folder.name, species=True) if name is None else self.named.get(name)
            if tag:
                photos = photos_of(sorted(folder.iterdir(), key=lambda path: zlib.crc32(path.name.encode())))
                yield from ((photo, tag) for photo in islice(photos, PER_FOLDER))

    def find(self, stem: str, *, species: bool = False) -> Tag | None:
        """The tag of a photo with this file name, if there is one.

        Args:
            species: whether words before an animal's name are its species.
        """
        name = re.sub(r"^n?\d+ (\d+ )?|(?<=\D)\s*(\d+|\(\d+\))$", "", key(stem))
        if name in self.names:
            return self.tags.get(self.names[name])
        split = spaced(name, self.nouns) if " " not in name else name
        for word in (name, name.removesuffix("s"), name.removesuffix("es"), split):
            if word in self.tags:
                return self.tags[word]
        words = name.split(" ") if species else []
        last = (self.tags.get(" ".join(words[at:])) for at in range(1, len(words)))
        return next((tag for tag in last if tag and tag.id in self.animals), None)


def key(name: str) -> str:
    """A name in lower case, with spaces for hyphens and underscores."""
    return normalize("NFC", re.sub(r"[\s_-]+", " ", name).strip().lower())


class WordRepository(NamedTuple):
    """A repository of photos that are named after what they show: a row of photos/repositories.tsv.

    `names` is a file with the photos' tags, "species" (see `WordPhotos`), or "folders" if their folders are
    named after what the photos show.
    """

    repository: str
    commit: str
    folder: str  # or one photo
    names: str = ""


def photos_of(paths: Iterable[Path]) -> Iterator[Path]:
    return (path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file())


def word_repositories() -> list[WordRepository]:
    return [WordRepository(*fields) for fields in table("repositories.tsv")]


def checkouts(folder: Path, *, by_folder: bool) -> Iterator[tuple[WordRepository, Path]]:
    """The repositories in `folder`, as OWNER+NAME, of which folders, or photos, are named."""
    for one in (one for one in word_repositories() if (one.names == "folders") == by_folder):
        root = folder / one.repository.replace("/", "+")
        if root.is_dir():
            yield one, root
        else:
            print(f"{root}: no such folder, left out", file=sys.stderr)


def row_of(photo: Path, source: str, tag: Tag, folder: Path) -> Row:
    """The row of a photo in `folder`, which is linked as words/."""
    image = f"words/{photo.relative_to(folder)}"
    return Row(image, source, share(image), (), (tag.name,))


def names_of(file: str) -> dict[str, str]:
    """Names of tags by names of photos, as keys; an empty name means that the photos are left out."""
    return {key(name): key(tag) for name, tag in table(file)}


def table(file: str) -> Iterator[list[str]]:
    """The fields of the lines of a file of `PHOTOS`, without comments."""
    for line in (PHOTOS / file).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            yield line.split("\t")


def new(rows: Iterable[Row], root: Path, kept: list[Row]) -> list[Row]:
    """Rows without near-duplicates of the photos of `kept`, and with each photo once."""
    readable, found = hashes(rows, root)
    again = groups(found, bits=SAME_BITS) != np.arange(len(readable))
    skipped = near(found, hashes(kept, root)[1]) | again
    return [row for row, skip in zip(readable, skipped, strict=True) if not skip]


def link(path: Path, to: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(to.resolve())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--coco", type=Path)
    parser.add_argument("--more", type=Path)
    parser.add_argument("--objects", type=Path)
    parser.add_argument("--words", type=Path)
    parser.add_argument("--vocabulary", type=Path, default=EMBEDDED)
    parser.add_argument("--wordnet", type=Path)
    args = parser.parse_args()
    for name in ("flickr8k", "broad"):
        unpack(args.data / name, args.out / name)
    nouns = nouns_of(args.wordnet) if args.wordnet else {}
    rows = [*flickr8k(args.data / "flickr8k"), *broad(args.data / "broad")]
    if args.coco:
        link(args.out / "coco", args.coco)
        rows.extend(new(coco(args.coco), args.out, rows))
    if args.more:
        link(args.out / "more", args.more)
        rows.extend(more(args.more, nouns))
    judged = [row for row in rows if row.split != "train"]
    added: list[Row] = []
    if args.objects:
        link(args.out / "objects", args.objects)
        added.extend(objects(args.objects))
    if args.words:
        link(args.out / "words", args.words)
        words = WordPhotos(Vocabulary.read(args.vocabulary / "vocabulary.jsonl"), nouns)
        added.extend(words.rows(args.words))
    if added:
        rows.extend(new(added, args.out, judged))
    if args.words:
        rows.extend(new(words.classes(args.words), args.out, rows))
    write_rows(args.out / "rows.jsonl", rows)
    print(f"{len(rows)} rows -> {args.out / 'rows.jsonl'}")


if __name__ == "__main__":
    main()
