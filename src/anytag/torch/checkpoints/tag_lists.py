"""Published tag lists and thresholds -> a vocabulary whose ids are unique, though names repeat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from anytag.errors import CheckpointError, VocabularyError
from anytag.models.folder import sha256_of
from anytag.models.published import CHINESE, PUBLISHED, TAG2TEXT_TAGS, TAGS, THRESHOLDS, WORDPIECES
from anytag.parsing.lexicon import default_lexicon, normal
from anytag.vocabulary import Kind, Tag, Vocabulary

DEFAULT_THRESHOLD = 0.68
_NEVER = 1.0  # scores stay below
# Tag2Text's exceptions, by row: tags that need more, and tags that the published code never gives.
_TAG2TEXT_ROWS: dict[int, tuple[str, float]] = {
    1167: ("woman", 0.7),
    2701: ("person", 0.7),
    2828: ("man", 0.7),
    127: ("quarter", _NEVER),
    2961: ("back", _NEVER),
    3265: ("three", _NEVER),
    3338: ("four", _NEVER),
    3351: ("two", _NEVER),
    3355: ("five", _NEVER),
    3359: ("one", _NEVER),
}
# Tag2Text's training scripts use RAM's list; the last name is what others call the file.
_CANDIDATES = {
    "ram": (TAGS,),
    "ram-plus": (TAGS,),
    "tag2text": (TAG2TEXT_TAGS, "tag2text_tag_list.txt", TAGS),
}


@dataclass(frozen=True, slots=True)
class Lists:
    """What the lists of one family say.

    Attributes:
        origin: how the thresholds were made, in words.
        files: name -> sha256 of what was read.
    """

    vocabulary: Vocabulary
    origin: str
    files: dict[str, str]


def read_lists(
    family: str, folder: Path, *, fits: Callable[[int], bool], rows: int, threshold: float | None = None
) -> Lists:
    """The vocabulary of a checkpoint, in its order.

    Args:
        folder: holds the published lists, or is a copy of the published repository.
        fits: whether a list of so many tags can be the checkpoint's.
        rows: of its queries, for messages.
        threshold: one for all tags, instead of the published ones.

    Raises:
        CheckpointError: a list is missing, or none is as long as the checkpoint's queries.
    """
    source = _tag_list(family, folder, fits=fits, rows=rows)
    names = _lines(source)
    chinese = find(folder, CHINESE) if source.name == TAGS else None
    translated = _as_long(_lines(chinese), names, chinese) if chinese else None
    thresholds, origin, used = _thresholds(family, folder, names, threshold=threshold)
    tags = zip(unique_ids(names), names, translated or [""] * len(names), thresholds, strict=True)
    try:
        vocabulary = Vocabulary(
            Tag(id, name, _kind(name), names={"zh": zh} if zh else {}, threshold=value)
            for id, name, zh, value in tags
        )
    except VocabularyError as error:
        raise CheckpointError(f"{source}: {error}") from None
    read = [file for file in (source, chinese, used) if file]
    return Lists(vocabulary, origin, {file.name: sha256_of(file) for file in read})


def find(folder: Path, name: str) -> Path | None:
    """A file of the folder, or of the published repository that the folder is."""
    places = (folder / name, folder / "ram" / "data" / name)
    return next((path for path in places if path.is_file()), None)


def missing(family: str, folder: Path, name: str) -> CheckpointError:
    """Says which file to put where."""
    published = PUBLISHED[family]
    remote = next((one for one in published.lists if one.local == name), None)
    source = f" from {remote.url}" if remote else ""
    return CheckpointError(
        f"{folder} holds no {name}, which this checkpoint needs: put it there{source}, name the folder that "
        f"holds it with --lists, or let `anytag pull {family}` fetch all"
    )


def wordpieces(family: str, folder: Path) -> Path:
    """The vocab.txt of the caption modules.

    Raises:
        CheckpointError: it is not there.
    """
    path = find(folder, WORDPIECES)
    if path is None:
        raise missing(family, folder, WORDPIECES)
    return path


def _tag_list(family: str, folder: Path, *, fits: Callable[[int], bool], rows: int) -> Path:
    paths = [path for name in _CANDIDATES[family] if (path := find(folder, name))]
    if not paths:
        raise missing(family, folder, _CANDIDATES[family][0])
    lengths = {path: len(_lines(path)) for path in paths}
    for path, length in lengths.items():
        if fits(length):
            return path
    sizes = ", ".join(f"{path} has {length} tags" for path, length in lengths.items())
    raise CheckpointError(
        f"the checkpoint has {rows} rows of queries, and {sizes}: give the list it was trained with (--lists)"
    )


def _thresholds(
    family: str, folder: Path, names: Sequence[str], *, threshold: float | None
) -> tuple[list[float], str, Path | None]:
    """One for each tag, their origin, and the file they are from."""
    if threshold is not None:
        return [threshold] * len(names), f"{threshold} for every tag, as asked when converted", None
    if family == "tag2text":
        values = [DEFAULT_THRESHOLD] * len(names)
        for row, (name, value) in _TAG2TEXT_ROWS.items():
            if row < len(names) and names[row] == name:  # the rows mean nothing in another list
                values[row] = value
        return values, f"{DEFAULT_THRESHOLD}, with the exceptions of the published Tag2Text; 1 is never", None
    file = find(folder, THRESHOLDS)
    if file is None:
        raise missing(family, folder, THRESHOLDS)
    try:
        values = [float(line) for line in _as_long(_lines(file), names, file)]
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}; expected a number a line") from None
    return values, f"one for each tag, tuned by the authors of RAM ({THRESHOLDS})", file


def _as_long(lines: list[str], names: Sequence[str], file: Path | None) -> list[str]:
    if len(lines) != len(names):
        raise CheckpointError(f"{file} has {len(lines)} lines, the tag list {len(names)}")
    return lines


def _lines(path: Path) -> list[str]:
    """Without spaces around them; the published lists end with a newline or do not."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not UTF-8: {error}") from None
    return [line.strip() for line in text.rstrip("\n").split("\n")]


def unique_ids(names: Sequence[str]) -> list[str]:
    """A name's first tag has it as its id, the next ones a number after it: train, train-2."""
    taken, seen, ids = set(names), Counter[str](), []
    for name in names:
        seen[name] += 1
        id = name
        while seen[name] > 1 and id in taken:
            id = f"{name}-{seen[name]}"
            seen[name] += id in taken
        taken.add(id)
        ids.append(id)
    return ids


def _kind(name: str) -> Kind:
    """What our lexicon takes it for; the published lists do not say."""
    return default_lexicon().kind(normal(name)) or "object"
