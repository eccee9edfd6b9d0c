"""The review table between corpus and vocabulary: a person decides for each candidate: keep, drop or merge.

    action  name    kind    into  rename  count  parents    synonyms  why                    examples
    keep    sofa    object                812    furniture  couch     couch (301): ...       A cat on a couch
    merge   settee  object  sofa          14                          WordNet: both are ...  An old settee

The table is tab-separated (or comma-separated, as .csv), for any spreadsheet. The vocabulary is built from
`action`, `kind`, `into`, `rename`, `parents` and `synonyms`; the other columns help to decide.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal, get_args

from anytag._io import atomic_write, read_text
from anytag.data.io import refuse_output
from anytag.data.vocabulary.merging import Key, Merge
from anytag.errors import RefusedOutputError, VocabularyError
from anytag.parsing import Candidate, Lexicon, default_lexicon, slug
from anytag.parsing.build import listed_words
from anytag.parsing.lexicon import normal
from anytag.vocabulary import KINDS, Kind, Tag, Vocabulary

Action = Literal["keep", "drop", "merge"]
ACTIONS: tuple[str, ...] = get_args(Action)
_SEPARATOR = "; "  # within a cell
_INCLUDED = "included by list"


@dataclass(frozen=True, slots=True)
class ReviewRow:
    """One candidate and the action for it."""

    action: Action
    name: str
    kind: Kind
    into: str = ""
    rename: str = ""
    count: int = 0
    parents: tuple[str, ...] = ()
    synonyms: tuple[str, ...] = ()
    why: str = ""
    examples: tuple[str, ...] = ()


COLUMNS = tuple(field.name for field in fields(ReviewRow))
_LISTS = ("parents", "synonyms", "examples")
_REQUIRED = ("action", "name", "kind")


@dataclass(frozen=True)
class Recipe:
    """Sizes of a published vocabulary.

    Attributes:
        top: number of most frequent names; None if the paper does not state it.
        size: number of tags after merging and review.
    """

    top: int | None
    size: int


RECIPES: Mapping[str, Recipe] = {"ram": Recipe(6449, 4585), "tag2text": Recipe(None, 3429)}
"""RAM merged 6,449 names into 4,585 tags; Tag2Text has 3,429. The authors removed names that are not visual
by hand; here this is done by the stop list, the given lists, and the review of the table."""


def lines(
    candidates: Iterable[Candidate],
    merges: Iterable[Merge] = (),
    *,
    include: Sequence[str] = (),
    exclude: Iterable[str] = (),
    keep_new: bool = False,
) -> list[ReviewRow]:
    """Propose an action for each candidate.

    Args:
        candidates: most frequent first.
        merges: proposals; one that is not sure keeps the candidate, with the proposal as the reason.
        include: names or synonyms to keep in any case; those that are in no caption are added.
        exclude: names to drop.
        keep_new: keep names found only by discovery; otherwise they are dropped until reviewed.
    """
    proposed = {merge.name: merge for merge in merges}
    lexicon = default_lexicon()
    included, excluded = listed_words(include, lexicon), {normal(name) for name in exclude}
    missing = dict.fromkeys(include)
    rows = []
    for candidate in candidates:
        name = normal(candidate.name)
        merge = proposed.get((candidate.name, candidate.kind))
        line = _line(candidate)
        words = included.get((name, candidate.kind), ())
        for word in words:
            missing.pop(word, None)
        if name in excluded:
            line = replace(line, action="drop", why="excluded by list")
        elif words:
            line = replace(line, why=_INCLUDED, synonyms=_synonyms(candidate.name, line.synonyms, words))
        elif merge is not None:
            why = merge.why if merge.sure else f"perhaps: {merge.why}"
            line = replace(line, action="merge" if merge.sure else "keep", into=merge.into[0], why=why)
        if line.action == "keep" and not candidate.known and not keep_new and line.why != _INCLUDED:
            line = replace(line, action="drop", why=_join(["new: in no list", line.why]))
        rows.append(line)
    rows = _without_lost_targets(rows)
    return rows + list(_unused(missing, lexicon))


def _unused(words: Iterable[str], lexicon: Lexicon) -> Iterator[ReviewRow]:
    """Rows for the words of a list that are in no caption, one for all words of a name."""
    names: dict[Key, list[str]] = {}
    for word in words:
        name, kind = lexicon.entry(normal(word)) or (word, "object")
        names.setdefault((lexicon.display_name(name), kind), []).append(word)
    for (name, kind), same in names.items():
        why = f"{_INCLUDED}; in no caption"
        yield ReviewRow("keep", name, kind, synonyms=_synonyms(name, (), same), why=why)


def _synonyms(name: str, synonyms: Iterable[str], words: Iterable[str]) -> tuple[str, ...]:
    """Synonyms with the words of a list that differ from the name."""
    texts = {normal(text): text for text in (*words, *synonyms)}
    return tuple(text for key, text in texts.items() if key != normal(name))


def _without_lost_targets(rows: Sequence[ReviewRow]) -> list[ReviewRow]:
    """Keep names that would be merged into a dropped name."""
    targets = {row.name for row in rows if row.action != "drop"}
    return [
        replace(row, action="keep", why=f"perhaps: {row.why}")
        if row.action == "merge" and row.into not in targets
        else row
        for row in rows
    ]


def write_review(path: Path, rows: Iterable[ReviewRow]) -> None:
    """Write the table, atomically.

    Raises:
        OutputError: the file cannot be written.
    """
    delimiter = "," if path.suffix.lower() == ".csv" else "\t"
    with atomic_write(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows([_cell(getattr(row, column)) for column in COLUMNS] for row in rows)


def check_review(path: Path, inputs: Iterable[str]) -> None:
    """Check, before long work, that a table may be written to `path`; none is replaced: it may be edited.

    Raises:
        OutputError: `path` is an input, a photo, or exists.
    """
    refuse_output(str(path), inputs)
    if not path.absolute().parent.is_dir():
        raise RefusedOutputError(f"{path} cannot be written: its folder does not exist")


def check_vocabulary(path: Path, inputs: Iterable[str]) -> None:
    """Run the same check for a vocabulary."""
    refuse_output(str(path), inputs)


def read_review(path: Path) -> list[ReviewRow]:
    """Read the table; columns may be in any order, and unknown ones are ignored.

    Raises:
        AnytagError: it cannot be read, or a cell is invalid; names the line and the column.
    """
    table = _table(read_text(path))
    if table is None:
        raise VocabularyError(
            f"{path}: does not have the columns {', '.join(_REQUIRED)}, separated by tabs, commas or "
            f"semicolons; expected {', '.join(COLUMNS)}"
        )
    rows = []
    try:
        for cells in table:
            if any(cells.values()):
                rows.append(_read(cells))
    except (VocabularyError, csv.Error) as error:
        raise VocabularyError(f"{path}, line {table.line_num}: {error}") from error
    return rows


def _table(text: str) -> csv.DictReader[str] | None:
    """Parse a table as written by spreadsheets; None if the header lacks required columns."""
    for delimiter in ("\t", ",", ";"):
        table = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        try:
            table.fieldnames = [name.strip() for name in table.fieldnames or ()]
        except csv.Error:
            continue
        if set(_REQUIRED) <= set(table.fieldnames):
            return table
    return None


def build(rows: Sequence[ReviewRow], *, size: int | None = None) -> Vocabulary:
    """Build the vocabulary from a review table, most frequent tags first.

    Args:
        rows: of the table.
        size: number of most frequent tags to keep; those included by list come first.

    Raises:
        VocabularyError: no row keeps a tag, a merge has no target, merges or parents form a circle, or two
            tags have the same name and kind.
    """
    ends = _merged_into(rows)
    groups: dict[Key, list[ReviewRow]] = {}
    for row in rows:
        if row.action == "keep":
            if _key(row) in groups:
                raise VocabularyError(f"two rows keep {row.name!r} of kind {row.kind}: drop one of them")
            groups[_key(row)] = [row]
    for row in rows:
        if row.action == "merge":
            groups[ends[_key(row)]].append(row)
    if not groups:
        raise VocabularyError("no row keeps a tag: write keep in the column action")
    ranked = sorted(groups.values(), key=_rank)[:size]
    vocabulary = _vocabulary(ranked, ends)
    for number, above in enumerate(vocabulary.broader):
        if circle := [parent for parent in above if number in vocabulary.broader[parent]]:
            names = f"{vocabulary[number].name!r} and {vocabulary[circle[0]].name!r}"
            raise VocabularyError(
                f"{names} are broader tags of each other: remove one from the column parents"
            )
    return vocabulary


def _merged_into(rows: Sequence[ReviewRow]) -> dict[Key, Key]:
    """Final target of each merge: "settee" into "couch" into "sofa"."""
    keys = [_key(row) for row in rows if row.action == "keep"]
    merges = {_key(row): row.into for row in rows if row.action == "merge"}
    all_keys = dict.fromkeys([*keys, *merges])
    ends = {}
    for key in merges:
        chain = [key]
        while chain[-1] in merges:
            into = merges[chain[-1]]
            # the same kind first: "swing" the object and "swing" the action differ
            target = next((k for k in ((into, key[1]), *all_keys) if k in all_keys and k[0] == into), None)
            if target is None:
                raise VocabularyError(f"{chain[-1][0]!r} is merged into {into!r}, which no row keeps")
            if target in chain:
                raise VocabularyError(
                    f"merges form a circle: {' into '.join(k[0] for k in [*chain, target])}"
                )
            chain.append(target)
        ends[key] = chain[-1]
    return ends


def _vocabulary(groups: Sequence[Sequence[ReviewRow]], ends: Mapping[Key, Key]) -> Vocabulary:
    ids: dict[Key, str] = {}
    used_ids: set[str] = set()
    for first, *_ in groups:
        display_name = first.rename or first.name
        key = slug(display_name)
        if key in used_ids:  # orange the fruit and orange the colour
            key = f"{key}-{first.kind}"
        if key in used_ids:
            raise VocabularyError(
                f"two tags are named {display_name!r} and of kind {first.kind}: rename or merge one of them"
            )
        used_ids.add(key)
        ids[_key(first)] = key
    return Vocabulary(_tag(group, ids, ends) for group in groups)


def _tag(group: Sequence[ReviewRow], ids: Mapping[Key, str], ends: Mapping[Key, Key]) -> Tag:
    first = group[0]
    display_name = first.rename or first.name
    words = [word for row in group for word in (row.name, *row.synonyms)]
    own = ids[_key(first)]
    above = [ids.get(ends.get(key, key)) for name in first.parents for key in _things(name)]
    return Tag(
        id=own,
        name=display_name,
        kind=first.kind,
        synonyms=tuple(dict.fromkeys(word for word in words if word != display_name)),
        parents=tuple(dict.fromkeys(id for id in above if id is not None and id != own)),
    )


def _things(name: str) -> tuple[Key, Key]:
    return (name, "object"), (name, "scene")


def _key(row: ReviewRow) -> Key:
    return row.name, row.kind


def _rank(group: Sequence[ReviewRow]) -> tuple[bool, int]:
    included = any(row.why.startswith(_INCLUDED) for row in group)
    return not included, -sum(row.count for row in group)


def _line(candidate: Candidate) -> ReviewRow:
    return ReviewRow(
        "keep",
        candidate.name,
        candidate.kind,
        count=candidate.count,
        parents=candidate.parents,
        synonyms=candidate.synonyms,
        why=_join(candidate.merged),
        examples=candidate.examples,
    )


def _read(cells: Mapping[str | None, str | None]) -> ReviewRow:
    if None in cells:
        raise VocabularyError(
            f"more cells than columns: {cells[None]!r}; a cell that contains a delimiter needs quotes"
        )
    texts = {name: " ".join((cells.get(name) or "").split()) for name in COLUMNS}
    action, kind, count = texts["action"].lower() or "keep", texts["kind"].lower(), texts["count"] or "0"
    if action not in ACTIONS:
        raise VocabularyError(f"action: {action!r} is unknown, expected one of {', '.join(ACTIONS)}")
    if kind not in KINDS:
        raise VocabularyError(f"kind: {kind!r} is unknown, expected one of {', '.join(KINDS)}")
    if not texts["name"]:
        raise VocabularyError("name: is empty")
    if action == "merge" and not texts["into"]:
        raise VocabularyError(f"into: {texts['name']!r} is to be merged, but there is no target")
    if not count.isdecimal():
        raise VocabularyError(f"count: {count!r} is not a number")
    lists = {n: tuple(part.strip() for part in texts[n].split(";") if part.strip()) for n in _LISTS}
    plain = {name: texts[name] for name in ("name", "into", "rename", "why")}
    return ReviewRow(action=action, kind=kind, count=int(count), **plain, **lists)  # type: ignore[arg-type]


def _cell(value: object) -> str:
    """Format a cell on one line, with lists separated by semicolons, and formulas disabled."""
    if isinstance(value, tuple):
        value = _SEPARATOR.join(str(part).replace(";", ",") for part in value)
    text = " ".join(str(value).split())
    return f" {text}" if text[:1] in ("=", "+", "-", "@") else text


def _join(parts: Iterable[str]) -> str:
    return _SEPARATOR.join(part for part in parts if part)


def count_actions(rows: Iterable[ReviewRow]) -> Iterator[tuple[str, int]]:
    """Number of rows with each action."""
    all_rows = list(rows)
    return ((action, sum(row.action == action for row in all_rows)) for action in ACTIONS)
