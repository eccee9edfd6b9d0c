"""One row of training data: a photo, what is known of it, and where each tag came from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from anytag.errors import AnytagError

Origin = Literal["label", "text", "model"]
"""Who says a tag: people who labelled the photo, its captions, a model."""
ORIGINS: tuple[str, ...] = get_args(Origin)
Step = Literal["parse", "generate", "clean"]
STEPS: tuple[str, ...] = get_args(Step)
OnError = Callable[[str], None]
"""Told what is wrong with a row that is left out."""

SPLITS = {
    **dict.fromkeys(
        ("train", "training", "trn", "restval"), "train"
    ),  # restval: what Karpathy trains with, too
    **dict.fromkeys(("val", "valid", "validation", "validate", "eval", "evaluation"), "val"),
    **dict.fromkeys(("dev", "devel", "development"), "dev"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
"""What others call splits -> what they are here."""

_MADE_BY: dict[Step, Origin] = {"parse": "text", "generate": "model"}


@dataclass(frozen=True, slots=True)
class Row:
    """A photo and what is said of it.

    Attributes:
        image: path of the photo, relative to the folder of the rows file, or a URL.
        source: the collection it comes from.
        split: "train", "dev", "val" or "test"; "" where none is named.
        captions: sentences that describe it; what they do not mention may still be there.
        tags: names that are there.
        absent: names that are certainly not there.
        origins: where each of `tags` comes from; empty when people said them all.
        cleaned: tags that cleaning took away, each with where it had come from.
        parsed: the tags that each caption names, where the data says it, as published annotations do; else
            the parser is asked.
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
        """The same row with these tags; of a tag that is said twice, the first counts."""
        first: dict[str, Origin] = {}
        for name, origin in pairs:
            first.setdefault(name, origin)
        origins = tuple(first.values())
        return replace(self, tags=tuple(first), origins=origins if set(origins) - {"label"} else ())

    def adding(self, names: Iterable[str], origin: Origin) -> Row:
        """The row with more tags, but for those it has, says are absent, or lost to cleaning."""
        contradicted = {*self.absent, *(name for name, _ in self.cleaned)}
        return self.with_origins(
            [*self.origins_by_tag, *((name, origin) for name in names if name not in contradicted)]
        )

    def cleaning(self, names: Iterable[str]) -> Row:
        """The row without these tags, which it records as removed."""
        removed_names = set(names)
        row = self.with_origins(pair for pair in self.origins_by_tag if pair[0] not in removed_names)
        dropped = tuple(pair for pair in self.origins_by_tag if pair[0] in removed_names)
        return replace(row, cleaned=(*self.cleaned, *dropped))

    def without(self, step: Step) -> Row:
        """The row as if one step of the data engine had not been taken."""
        if step == "clean":
            return replace(self.with_origins([*self.origins_by_tag, *self.cleaned]), cleaned=())
        origin = _MADE_BY[step]
        row = self.with_origins(pair for pair in self.origins_by_tag if pair[1] != origin)
        cleaned = tuple(pair for pair in self.cleaned if pair[1] != origin)
        return replace(row, cleaned=cleaned, parsed=() if step == "parse" else self.parsed)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists for JSON; `origins`, `cleaned` and `parsed` only where there are some."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        for name in ("cleaned", "parsed"):
            values[name] = [list(part) for part in values[name]]
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
        optional = ("origins", "cleaned", "parsed")
        return {key: value for key, value in plain.items() if value or key not in optional}


def split_of(name: str) -> str:
    """The split that a name means: "Validation" and "val2017" are "val"; "" where none is named.

    Raises:
        ValueError: none is known by this name.
    """
    if name in ("train", "val", "dev", "test", ""):  # quickly: it is asked of every row
        return name
    key = name.strip().lower()
    split = SPLITS.get(key) or SPLITS.get(key.rstrip("0123456789").rstrip("-_ "))
    if key and split is None:
        raise ValueError(f"split {name!r} is unknown; expected train, val, dev or test")
    return split or ""


def row_of(raw: object, *, source: str | None = None, split: str | None = None) -> Row:
    """A row from plain values, such as a JSON object.

    Args:
        raw: the fields of `Row`; "caption" may stand for one caption.
        source, split: of a row that does not name its own.

    Raises:
        ValueError: not a row; says why. A split by an unknown name would be taught from.
    """
    if not isinstance(raw, Mapping):
        raise ValueError(f"expected an object, got {type(raw).__name__}")
    values = {key: value for key, value in raw.items() if value is not None}
    if "caption" in values:
        values["captions"] = [values.pop("caption")]
    field_names = {one.name for one in fields(Row)}
    if unknown := sorted(map(str, set(values) - field_names)):
        raise ValueError(f"unknown field {unknown[0]!r}; known are {', '.join(sorted(field_names))}")
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
        raise ValueError(f"unknown origin {unknown[0]!r}; known are {', '.join(ORIGINS)}")
    cleaned = tuple(_pair(pair) for pair in _list(values, "cleaned"))
    parsed = tuple(_names(part, "parsed") for part in _list(values, "parsed"))
    if parsed and len(parsed) != len(lists["captions"]):
        raise ValueError(f"{len(lists['captions'])} captions, but {len(parsed)} lists in 'parsed'")
    _tidy(lists)
    return Row(**texts, **lists, cleaned=cleaned, parsed=parsed)  # type: ignore[arg-type]  # checked above


def _tidy(lists: dict[str, tuple[str, ...]]) -> None:
    """Single spaces, none around; tags that are empty or said twice go, with their origins."""
    lists["captions"] = tuple([" ".join(text.split()) for text in lists["captions"]])
    absent = [" ".join(text.split()) for text in lists["absent"]]
    lists["absent"] = tuple(dict.fromkeys(filter(None, absent)))
    names = [" ".join(text.split()) for text in lists["tags"]]
    origin_of = dict(
        zip(reversed(names), reversed(lists["origins"] or names), strict=True)
    )  # of two, the first
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
        raise ValueError(f"{key!r} holds {text!r}, which is not Unicode") from error


def _pair(value: object) -> tuple[str, Origin]:
    if isinstance(value, Mapping):  # as Parquet has it
        value = (value.get("tag"), value.get("origin"))
    if isinstance(value, list | tuple) and len(value) == 2 and value[1] in ORIGINS:
        return str(value[0]), value[1]
    raise ValueError(f"'cleaned' holds {value!r}, expected a tag and where it came from")


def read_rows(path: Path) -> list[Row]:
    """Reads rows.jsonl.

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
    """Rows from lines of JSON.

    Args:
        lines: of a file in UTF-8.
        where: its name, for messages.
        source, split: of a row that does not name its own.
        on_error: takes the message of a line that is not a row, which is then left out.

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
            tell(f"{where}, line {number}: not a row ({error})", on_error, error)


def tell(message: str, on_error: OnError | None, error: Exception | None = None) -> None:
    """Reports a row that is left out, or stops at it where nobody listens."""
    if on_error is None:
        raise AnytagError(message) from error
    on_error(message)


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Writes rows.jsonl, one JSON object a line."""
    with path.open("wb") as out:
        out.writelines(map(line_of, rows))


def line_of(row: Row) -> bytes:
    """A row as one line of JSON."""
    text = json.dumps(row.to_dict(), ensure_ascii=False)
    return text.encode(errors="backslashreplace") + b"\n"  # an escape of JSON: paths need not be Unicode


def by_photo(rows: Iterable[Row]) -> list[Row]:
    """One row a photo and split, with all that its rows say, where the first of them stood.

    What one of them names, the others are not silent of, and it is not absent.
    """
    found: dict[tuple[str, str], Row] = {}
    for row in rows:
        first = found.get((row.image, row.split))
        found[row.image, row.split] = row if first is None else _both(first, row)
    return list(found.values())


def _both(one: Row, other: Row) -> Row:
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
    """Rows of one split, and of one source when it is named."""
    return (row for row in rows if row.split == split and (source is None or row.source == source))
