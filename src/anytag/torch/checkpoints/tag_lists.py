"""Published tag lists and thresholds -> a vocabulary with unique ids, although names repeat."""

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
_NEVER = 1.0  # scores are always lower
# Tag2Text's exceptions, by row: tags with a higher threshold, and tags that the published code never returns.
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
# Tag2Text's training scripts use RAM's list; tag2text_tag_list.txt is a name used by other repositories.
_CANDIDATES = {
    "ram": (TAGS,),
    "ram-plus": (TAGS,),
    "tag2text": (TAG2TEXT_TAGS, "tag2text_tag_list.txt", TAGS),
}


@dataclass(frozen=True, slots=True)
class TagLists:
    """The tag lists of one family.

    Attributes:
        vocabulary: the tags with thresholds.
        origin: origin of the thresholds, in words.
        files: name -> SHA-256 of the files that were read.
    """

    vocabulary: Vocabulary
    origin: str
    files: dict[str, str]


def read_lists(
    family: str, folder: Path, *, fits: Callable[[int], bool], rows: int, threshold: float | None = None
) -> TagLists:
    """Read the vocabulary of a checkpoint, in the order of its queries.

    Args:
        folder: folder of the published lists, or a copy of the published repository.
        fits: whether a list with this number of tags can belong to the checkpoint.
        rows: number of query rows of the checkpoint, for messages.
        threshold: one threshold for all tags, instead of the published ones.

    Raises:
        CheckpointError: a list is missing, or no list has as many tags as the checkpoint.
    """
    source = _tag_list(family, folder, fits=fits, rows=rows)
    names = _lines(source)
    chinese = find_list(folder, CHINESE) if source.name == TAGS else None
    translated = _check_length(_lines(chinese), names, chinese) if chinese else None
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
    return TagLists(vocabulary, origin, {file.name: sha256_of(file) for file in read})


def find_list(folder: Path, name: str) -> Path | None:
    """Find a list in the folder, which may be a copy of the published repository; None if it is missing."""
    candidates = (folder / name, folder / "ram" / "data" / name)
    return next((path for path in candidates if path.is_file()), None)


def missing(family: str, folder: Path, name: str) -> CheckpointError:
    """The error for a missing list, with the ways to get it."""
    published = PUBLISHED[family]
    remote = next((one for one in published.lists if one.local == name), None)
    source = f" from {remote.url}" if remote else ""
    return CheckpointError(
        f"{folder} has no {name}, which this checkpoint needs: put it there{source}, give its folder with "
        f"--lists, or download all files with `anytag pull {family}`"
    )


def wordpieces(family: str, folder: Path) -> Path:
    """The path of the caption modules' vocab.txt.

    Raises:
        CheckpointError: it is missing.
    """
    path = find_list(folder, WORDPIECES)
    if path is None:
        raise missing(family, folder, WORDPIECES)
    return path


def _tag_list(family: str, folder: Path, *, fits: Callable[[int], bool], rows: int) -> Path:
    paths = [path for name in _CANDIDATES[family] if (path := find_list(folder, name))]
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
    """One threshold per tag, their origin, and the file they were read from."""
    if threshold is not None:
        return [threshold] * len(names), f"{threshold} for every tag, as requested at conversion", None
    if family == "tag2text":
        values = [DEFAULT_THRESHOLD] * len(names)
        for row, (name, value) in _TAG2TEXT_ROWS.items():
            if row < len(names) and names[row] == name:  # in another list the row is a different tag
                values[row] = value
        origin = f"{DEFAULT_THRESHOLD}, with the exceptions of the published Tag2Text; 1 means never"
        return values, origin, None
    file = find_list(folder, THRESHOLDS)
    if file is None:
        raise missing(family, folder, THRESHOLDS)
    try:
        values = [float(line) for line in _check_length(_lines(file), names, file)]
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}; expected one number per line") from None
    return values, f"one for each tag, tuned by the authors of RAM ({THRESHOLDS})", file


def _check_length(lines: list[str], names: Sequence[str], file: Path | None) -> list[str]:
    if len(lines) != len(names):
        raise CheckpointError(f"{file} has {len(lines)} lines, the tag list {len(names)}")
    return lines


def _lines(path: Path) -> list[str]:
    """Stripped lines; only some of the published lists end with a newline."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not UTF-8: {error}") from None
    return [line.strip() for line in text.rstrip("\n").split("\n")]


def unique_ids(names: Sequence[str]) -> list[str]:
    """Unique ids: the first tag of a name has it as its id, the next ones add a number (train-2)."""
    taken, counts, ids = set(names), Counter[str](), []
    for name in names:
        counts[name] += 1
        id = name
        while counts[name] > 1 and id in taken:
            id = f"{name}-{counts[name]}"
            counts[name] += id in taken
        taken.add(id)
        ids.append(id)
    return ids


def _kind(name: str) -> Kind:
    """The kind in anytag's lexicon; the published lists have none."""
    return default_lexicon().kind(normal(name)) or "object"
