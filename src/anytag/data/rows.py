"""A row of image-text data: a photo with captions and tags, and the origin of each tag."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from anytag.errors import AnytagError

Origin = Literal["label", "text", "model"]
"""Origin of a tag: a person's label, a caption, or a model."""
ORIGINS: tuple[str, ...] = get_args(Origin)
Step = Literal["parse", "generate", "clean"]
STEPS: tuple[str, ...] = get_args(Step)
OnError = Callable[[str], None]
"""Called with a message for each row that is skipped."""

SPLITS = {
    # Karpathy's split "restval" is part of the training data
    **dict.fromkeys(("train", "training", "trn", "restval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "eval", "evaluation"), "val"),
    **dict.fromkeys(("dev", "devel", "development"), "dev"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
"""Other names of splits -> names used here."""

_MADE_BY: dict[Step, Origin] = {"parse": "text", "generate": "model"}


@dataclass(frozen=True, slots=True)
class Row:
    """A photo and its annotations.

    Attributes:
        image: path of the photo, relative to the folder of the rows file, or a URL.
        source: name of the data set.
        split: "train", "dev", "val" or "test"; "" if unspecified.
        captions: descriptions; things that they do not mention may still be present.
        tags: names that are present.
        absent: names that are certainly absent, unless they are in `tags`.
        origins: origin of each of `tags`; empty if all are labels.
        cleaned: tags removed by cleaning, each with its origin.
        parsed: tags of each caption, if the data includes them, as published annotations do; otherwise the
            parser is used.
    """

    image: str
    source: str
    split: str
    captions: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    origins: tuple[Origin, ...] = ()
    cleaned: tuple[tuple[str, Origin], ...] = ()
    parsed: tuple[tuple[str, ...], ...] = ()

    @property
    def origins_by_tag(self) -> tuple[tuple[str, Origin], ...]:
        """Each tag with its origin."""
        people: Origin = "label"
        return tuple(zip(self.tags, self.origins or (people,) * len(self.tags), strict=True))

    def with_origins(self, pairs: Iterable[tuple[str, Origin]]) -> Row:
        """Return the row with these tags; the first of duplicate tags is used."""
        first: dict[str, Origin] = {}
        for name, origin in pairs:
            first.setdefault(name, origin)
        origins = tuple(first.values())
        return replace(self, tags=tuple(first), origins=origins if set(origins) - {"label"} else ())

    def adding(self, names: Iterable[str], origin: Origin) -> Row:
        """Return the row with more tags, except those it has, lists as absent, or lost to cleaning."""
        contradicted = {*self.absent, *(name for name, _ in self.cleaned)}
        return self.with_origins(
            [*self.origins_by_tag, *((name, origin) for name in names if name not in contradicted)]
        )

    def cleaning(self, names: Iterable[str]) -> Row:
        """Return the row without these tags, recorded in `cleaned`."""
        removed_names = set(names)
        row = self.with_origins(pair for pair in self.origins_by_tag if pair[0] not in removed_names)
        dropped = tuple(pair for pair in self.origins_by_tag if pair[0] in removed_names)
        return replace(row, cleaned=(*self.cleaned, *dropped))

    def without(self, step: Step) -> Row:
        """Return the row as it was before one step of the data engine."""
        if step == "clean":
            return replace(self.with_origins([*self.origins_by_tag, *self.cleaned]), cleaned=())
        origin = _MADE_BY[step]
        row = self.with_origins(pair for pair in self.origins_by_tag if pair[1] != origin)
        cleaned = tuple(pair for pair in self.cleaned if pair[1] != origin)
        return replace(row, cleaned=cleaned, parsed=() if step == "parse" else self.parsed)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain lists for JSON; `origins`, `cleaned` and `parsed` only if not empty."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        for name in ("cleaned", "parsed"):
            values[name] = [list(part) for part in values[name]]
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
        optional = ("origins", "cleaned", "parsed")
        return {key: value for key, value in plain.items() if value or key not in optional}


def split_of(name: str) -> str:
    """Normalise the name of a split: "Validation" and "val2017" are "val"; "" stays "".

    Raises:
        ValueError: the name is unknown.
    """
    if name in ("train", "val", "dev", "test", ""):  # a fast path, since this is called for every row
        return name
    split = find_split(name)
    if not split and name.strip():
        raise ValueError(f"split {name!r} is unknown; expected train, val, dev or test")
    return split


def find_split(name: str) -> str:
    """As `split_of`; "" if the name is unknown."""
    key = name.strip().lower()
    return SPLITS.get(key) or SPLITS.get(key.rstrip("0123456789").rstrip("-_ "), "")


def row_of(raw: object, *, source: str | None = None, split: str | None = None) -> Row:
    """Make a row from plain values, such as a JSON object.

    Args:
        raw: the fields of `Row`; "caption" may contain a single caption.
        source, split: for a row without them.

    Raises:
        ValueError: not a row; says why. Unknown splits are errors, since they would be trained on.
    """
    if not isinstance(raw, Mapping):
        raise ValueError(f"expected an object, got {type(raw).__name__}")
    values = {key: value for key, value in raw.items() if value is not None}
    if "caption" in values:
        values["captions"] = [values.pop("caption")]
    field_names = {one.name for one in fields(Row)}
    if unknown := sorted(map(str, set(values) - field_names)):
        raise ValueError(f"unknown field {unknown[0]!r}; expected {', '.join(sorted(field_names))}")
    given_texts = {key: _text(values, key) for key in ("image", "source", "split") if key in values}
    texts = {"source": source, "split": split, **given_texts}
    if missing := [key for key in ("image", "source", "split") if texts.get(key) is None]:
        raise ValueError(f"{missing[0]!r} is missing")
    if not given_texts["image"].strip() or "\0" in given_texts["image"]:
        raise ValueError(f"'image' is {given_texts['image']!r}, expected the path of a photo")
    texts["split"] = split_of(given_texts.get("split", "")) or split or ""
    lists = {key: _names(values.get(key, ()), key) for key in ("captions", "tags", "absent", "origins")}
    if lists["origins"] and len(lists["origins"]) != len(lists["tags"]):
        raise ValueError(f"{len(lists['tags'])} tags, but {len(lists['origins'])} origins")
    if unknown := sorted({*lists["origins"]} - {*ORIGINS}):
        raise ValueError(f"unknown origin {unknown[0]!r}; expected {', '.join(ORIGINS)}")
    cleaned = tuple(_pair(pair) for pair in _list(values, "cleaned"))
    parsed = tuple(_names(part, "parsed") for part in _list(values, "parsed"))
    if parsed and len(parsed) != len(lists["captions"]):
        raise ValueError(f"{len(lists['captions'])} captions, but {len(parsed)} lists in 'parsed'")
    _normalise(lists)
    return Row(**texts, **lists, cleaned=cleaned, parsed=parsed)  # type: ignore[arg-type]  # checked above


def _normalise(lists: dict[str, tuple[str, ...]]) -> None:
    """Normalise spaces, and remove empty and duplicate tags with their origins."""
    lists["captions"] = tuple([" ".join(text.split()) for text in lists["captions"]])
    absent = [" ".join(text.split()) for text in lists["absent"]]
    lists["absent"] = tuple(dict.fromkeys(filter(None, absent)))
    names = [" ".join(text.split()) for text in lists["tags"]]
    # of duplicates the first origin is used
    origin_of = dict(zip(reversed(names), reversed(lists["origins"] or names), strict=True))
    tags = [name for name in dict.fromkeys(names) if name]
    if lists["origins"]:
        lists["origins"] = tuple([origin_of[name] for name in tags])
    lists["tags"] = tuple(tags)


def _text(values: Mapping[str, Any], key: str) -> str:
    value = values[key]
    if not isinstance(value, str):
        raise ValueError(f"{key!r} is {value!r}, expected text")
    return value


def _list(values: Mapping[str, Any], key: str) -> Iterable[object]:
    value = values.get(key, ())
    if not isinstance(value, list | tuple):
        raise ValueError(f"{key!r} is {value!r}, expected a list")
    return value


def _names(value: object, key: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise ValueError(f"{key!r} is {value!r}, expected a list of texts")
    for one in value:
        if not one.isascii():
            _check_unicode(one, key)
    return tuple(value)


def _check_unicode(text: str, key: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{key!r} contains {text!r}, which is not Unicode") from error


def _pair(value: object) -> tuple[str, Origin]:
    if isinstance(value, Mapping):  # the form in Parquet
        value = (value.get("tag"), value.get("origin"))
    if isinstance(value, list | tuple) and len(value) == 2 and value[1] in ORIGINS:
        return str(value[0]), value[1]
    raise ValueError(f"'cleaned' contains {value!r}, expected a tag and its origin")


def read_rows(path: Path) -> list[Row]:
    """Read a rows.jsonl.

    Raises:
        AnytagError: a line is not a row; the message names file and line.
    """
    with path.open("rb") as lines:
        return list(parse_lines(lines, str(path)))


def parse_lines(
    lines: Iterable[bytes],
    where: str,
    *,
    source: str | None = None,
    split: str | None = None,
    on_error: OnError | None = None,
) -> Iterator[Row]:
    """Parse rows from JSON lines.

    Args:
        lines: of a file in UTF-8.
        where: file name, for messages.
        source, split: for rows without them.
        on_error: called with the message for each invalid line, which is skipped.

    Raises:
        AnytagError: a line is not a row, and there is no `on_error`.
    """
    for number, line in enumerate(lines, 1):
        if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise AnytagError(f"{where} is UTF-16: save it as UTF-8")
        if not line.strip():
            continue
        try:
            yield row_of(json.loads(line), source=source, split=split)
        except (ValueError, TypeError, RecursionError) as error:
            report_error(f"{where}, line {number}: not a row ({error})", on_error, error)


def report_error(message: str, on_error: OnError | None, error: Exception | None = None) -> None:
    """Report a row that is skipped, or raise AnytagError if there is no `on_error`."""
    if on_error is None:
        raise AnytagError(message) from error
    on_error(message)


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write a rows.jsonl, one JSON object per line."""
    with path.open("wb") as out:
        out.writelines(map(line_of, rows))


def line_of(row: Row) -> bytes:
    """Encode a row as one line of JSON."""
    text = json.dumps(row.to_dict(), ensure_ascii=False)
    return text.encode(errors="backslashreplace") + b"\n"  # escapes, because paths need not be valid Unicode


def by_photo(rows: Iterable[Row]) -> list[Row]:
    """Merge rows of the same photo and split, at the position of the first.

    A tag that one row names counts as named in the merged row, and is not absent.
    """
    found: dict[tuple[str, str], Row] = {}
    for row in rows:
        first = found.get((row.image, row.split))
        found[row.image, row.split] = row if first is None else _merge(first, row)
    return list(found.values())


def _merge(one: Row, other: Row) -> Row:
    captions, parsed = one.captions + other.captions, one.parsed + other.parsed
    row = one.with_origins([*one.origins_by_tag, *other.origins_by_tag])
    return replace(
        row,
        captions=captions,
        absent=tuple(name for name in dict.fromkeys(one.absent + other.absent) if name not in row.tags),
        cleaned=one.cleaned + other.cleaned,
        parsed=parsed if len(parsed) == len(captions) else (),
    )


def select(rows: Iterable[Row], *, split: str, source: str | None = None) -> Iterator[Row]:
    """Rows of one split, and of one source if given."""
    return (row for row in rows if row.split == split and (source is None or row.source == source))
