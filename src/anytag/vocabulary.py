"""Tags as data: a `Tag`, an ordered `Vocabulary` of them, one JSON line a tag.

    {"id": "hot dog", "name": "hot dog", "kind": "object", "names": {"de": "Hotdog"},
     "synonyms": ["frankfurter in a bun"], "parents": ["food"], "threshold": 0.41}

A vocabulary never changes: `subset`, `merge` and their like return a new one.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from anytag._io import atomic_write
from anytag.errors import VocabularyError, brief, is_number

Kind = Literal["object", "scene", "attribute", "action"]
KINDS: tuple[str, ...] = get_args(Kind)

CUSTOM_PREFIX = "custom:"
"""What ids of the users' custom tags begin with; no trained tag may."""

_GAPS = dict.fromkeys(map(ord, "-_ \t\n\r\f\v"))
# No spaces around it, no control characters (a terminal would obey them), no lone surrogates.
_TEXT = re.compile(r"(?!\s)[^\x00-\x1f\x7f-\x9f\ud800-\udfff]+(?<!\s)")


@dataclass(frozen=True, slots=True)
class Tag:
    """One tag of a vocabulary.

    Attributes:
        id: identity, unique in a vocabulary, never renamed.
        name: the name to show; names may repeat (bass the fish, bass the instrument).
        kind: object, scene, attribute or action.
        names: the name in other languages, by language code.
        synonyms: other words for the same tag.
        parents: ids of broader tags; they need not be in the same vocabulary.
        threshold: the calibrated probability in [0, 1] from which the tag is given.

    Raises:
        VocabularyError: a field is of another type, empty or out of range; names the field.
    """

    id: str
    name: str
    kind: Kind
    names: Mapping[str, str] = field(default_factory=dict)
    synonyms: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    threshold: float = 0.5

    def __post_init__(self) -> None:
        check_text("id", self.id)
        check_text("name", self.name)
        if self.id.startswith(CUSTOM_PREFIX):
            raise VocabularyError(
                f"id: {brief(self.id)} begins with {CUSTOM_PREFIX!r}, which is kept for users' custom tags"
            )
        if self.kind not in KINDS:
            raise VocabularyError(f"kind: {brief(self.kind)} is unknown, expected one of {', '.join(KINDS)}")
        if not isinstance(self.names, Mapping):
            raise VocabularyError(f"names: expected names by language code, got {brief(self.names)}")
        for language, name in self.names.items():
            check_text("names", language)
            check_text(f"names.{language}", name)
        for label, texts in (("synonyms", self.synonyms), ("parents", self.parents)):
            if not isinstance(texts, tuple):
                raise VocabularyError(f"{label}: expected a list of texts, got {brief(texts)}")
            for text in texts:
                check_text(label, text)
        _check_threshold(self.threshold)

    def __hash__(self) -> int:
        return hash((self.id, self.name))  # equal tags have equal ones; `names` may be a plain dict

    def to_dict(self) -> dict[str, Any]:
        """The row of a vocabulary file."""
        return {
            "id": self.id,
            "name": self.name,
            "kind": self.kind,
            "names": dict(self.names),
            "synonyms": list(self.synonyms),
            "parents": list(self.parents),
            "threshold": self.threshold,
        }


_FIELDS = tuple(f.name for f in fields(Tag))
_REQUIRED = ("id", "name", "kind", "threshold")


class Vocabulary:
    """Tags in an order that never changes: tag number k is column k of a model's logits.

    Args:
        tags: at least none; ids must be unique.

    Raises:
        VocabularyError: two tags have one id.
    """

    def __init__(self, tags: Iterable[Tag]) -> None:
        self._tags = tuple(tags)
        self._places: dict[str, int] = {}
        for place, tag in enumerate(self._tags):
            first = self._places.setdefault(tag.id, place)
            if first != place:
                message = f"row {place + 1}: id {tag.id!r} is taken by row {first + 1}"
                raise VocabularyError(f"{message}; ids are unique, names may repeat")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Vocabulary:
        """Reads a vocabulary file: UTF-8, one JSON object a line, empty lines skipped.

        Raises:
            VocabularyError: the file or a row cannot be read; names the file, the line and the field.
        """
        try:
            lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
        except (OSError, ValueError) as error:  # ValueError: not UTF-8
            raise VocabularyError(f"{os.fspath(path)}: cannot be read as a vocabulary ({error})") from error
        seen: dict[str, int] = {}
        tags = []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                tag = _from_row(line)
                first = seen.setdefault(tag.id, number)
                if first != number:
                    raise VocabularyError(f"id {tag.id!r} is taken by line {first}")
            except VocabularyError as error:
                raise VocabularyError(f"{os.fspath(path)}, line {number}: {error}") from error
            tags.append(tag)
        return cls(tags)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes a vocabulary file; whoever reads meanwhile sees the old one or the new one, never a half.

        Raises:
            OutputError: the file cannot be written.
        """
        rows = "".join(json.dumps(tag.to_dict(), ensure_ascii=False) + "\n" for tag in self)
        with atomic_write(path) as draft:
            draft.write_bytes(rows.encode())

    def __len__(self) -> int:
        return len(self._tags)

    def __iter__(self) -> Iterator[Tag]:
        return iter(self._tags)

    def __getitem__(self, key: int | str) -> Tag:
        """The tag of a place or of an id."""
        return self._tags[self.index(key) if isinstance(key, str) else key]

    def __contains__(self, key: object) -> bool:
        """Whether an id, or a tag itself, is in here."""
        place = self._place(key.id if isinstance(key, Tag) else key)
        return place is not None and (not isinstance(key, Tag) or self._tags[place] == key)

    def _place(self, id: object) -> int | None:
        return self._places.get(id) if isinstance(id, str) else None

    def __eq__(self, other: object) -> bool:
        return self._tags == other._tags if isinstance(other, Vocabulary) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # tags hold mappings

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} tags)"

    @property
    def ids(self) -> tuple[str, ...]:
        """All ids, in order."""
        return tuple(self._places)

    def index(self, id: str) -> int:
        """The place of an id, from 0.

        Raises:
            VocabularyError: there is no such id; names those that look like it.
        """
        place = self._place(id)
        if place is None:
            close = ", ".join(map(repr, difflib.get_close_matches(str(id)[:200], self._places, n=3)))
            hint = f"did you mean {close}?" if close else "see the file's `id` fields"
            raise VocabularyError(f"no tag of these {len(self)} has the id {brief(id)}; {hint}")
        return place

    def find(self, text: str) -> Tag | None:
        """The tag with this id, else name, else synonym, else name in another language, else None.

        Case, spaces and hyphens play no part: "Hot-Dog" finds "hot dog". Of several tags the first wins.

        Raises:
            VocabularyError: `text` is not a text.
        """
        if not isinstance(text, str):
            raise VocabularyError(f"got {brief(text)}, expected a text: find('dog')")
        return self._words.get(matching_key(text))

    @cached_property
    def broader(self) -> tuple[tuple[int, ...], ...]:
        """For each tag the indexes of all that is broader in this vocabulary, parents of parents included."""
        index = {tag.id: number for number, tag in enumerate(self)}
        parents = [[index[parent] for parent in tag.parents if parent in index] for tag in self]
        broader = []
        for number, above in enumerate(parents):
            todo, seen = list(above), {number}
            while todo:
                at = todo.pop()
                if at not in seen:
                    seen.add(at)
                    todo.extend(parents[at])
            broader.append(tuple(sorted(seen - {number})))
        return tuple(broader)

    def lineage(self, id: str) -> tuple[str, ...]:
        """Names from the broadest to the tag's own, ("animal", "dog"); of several parents the nearest.

        Raises:
            VocabularyError: the id is not in the vocabulary.
        """
        at = self.index(id)
        names = [self[at].name]
        while (parent := self._nearest(at)) is not None:
            names.insert(0, self[parent].name)
            at = parent
        return tuple(names)

    def _nearest(self, at: int) -> int | None:
        """The parent of a tag above which most is, and which is not below the tag in turn."""
        parents = (self._places[one] for one in self[at].parents if one in self._places)
        above = [parent for parent in parents if at not in self.broader[parent]]
        return max(above, key=lambda parent: len(self.broader[parent]), default=None)

    @cached_property
    def _words(self) -> dict[str, Tag]:
        words: dict[str, Tag] = {}
        for texts_of in (
            lambda tag: (tag.id,),
            lambda tag: (tag.name,),
            lambda tag: tag.synonyms,
            lambda tag: tag.names.values(),
        ):
            for tag in self:
                for text in texts_of(tag):
                    words.setdefault(matching_key(text), tag)
        words.pop("", None)  # a text of hyphens alone
        return words

    def subset(self, ids: Iterable[str]) -> Vocabulary:
        """These tags alone, in the order given."""
        return Vocabulary(self._tags[self.index(id)] for id in _listed(ids))

    def exclude(self, ids: Iterable[str]) -> Vocabulary:
        """All but these tags."""
        out = {self.index(id) for id in _listed(ids)}
        return Vocabulary(tag for place, tag in enumerate(self) if place not in out)

    def merge(self, other: Vocabulary) -> Vocabulary:
        """These tags, then those of `other` that are not here yet.

        Raises:
            VocabularyError: an id means different things in the two.
        """
        for tag in other:
            if tag.id in self and tag not in self:
                raise VocabularyError(f"id {tag.id!r} differs in the two: exclude it from one of them first")
        return Vocabulary([*self, *(tag for tag in other if tag.id not in self)])

    def find_all(self, names: Iterable[str]) -> tuple[str, ...]:
        """Ids of the tags with these names, found as `find` does, and of all that is narrower: dog and puppy.

        Raises:
            VocabularyError: a name is unknown; names those that look like it.
        """
        numbers = {self.index(tag.id if (tag := self.find(name)) else name) for name in _listed(names)}
        return tuple(tag.id for k, tag in enumerate(self) if k in numbers or numbers & {*self.broader[k]})

    def in_language(self, code: str) -> Vocabulary:
        """The same tags under their names in a language ("de"), as far as they have one.

        All are still found by the names they had.

        Raises:
            VocabularyError: no tag has a name in it; says which languages there are.
        """
        codes = {one.casefold(): one for tag in self for one in tag.names}
        if (key := codes.get(str(code).casefold())) is None:
            languages = ", ".join(sorted(codes.values())) or "none"
            raise VocabularyError(f"no tag has a name in the language {brief(code)}; there are: {languages}")
        return Vocabulary(
            replace(tag, name=tag.names[key], synonyms=(tag.name, *tag.synonyms)) if key in tag.names else tag
            for tag in self
        )

    def rename(self, names: Mapping[str, str]) -> Vocabulary:
        """The same tags under other names to show, by id; ids stay."""
        return self._changed("name", names)

    def with_thresholds(self, thresholds: float | Mapping[str, float]) -> Vocabulary:
        """The same tags with one threshold for all, or with some by id; the others keep theirs."""
        if not isinstance(thresholds, Mapping):
            thresholds = dict.fromkeys(self._places, thresholds)
        return self._changed("threshold", thresholds)

    def _changed(self, attribute: str, values: object) -> Vocabulary:
        if not isinstance(values, Mapping):
            raise VocabularyError(f"expected a {attribute} by id, got {brief(values)}")
        tags = list(self)
        for id, value in values.items():
            place = self.index(id)
            try:
                tags[place] = replace(tags[place], **{attribute: value})
            except VocabularyError as error:
                raise VocabularyError(f"tag {id!r}: {error}") from error
        return Vocabulary(tags)


def matching_key(text: str) -> str:
    """What is compared of two names: compatibility forms and case folded, spaces and hyphens left out."""
    if text.isascii():  # nearly always, and ten times faster
        return text.lower().translate(_GAPS)
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c for c in folded if c != "_" and unicodedata.category(c) not in ("Pd", "Zs", "Cc"))


def _from_row(line: str) -> Tag:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise VocabularyError(f"is not JSON ({error})") from error
    if not isinstance(row, dict):
        raise VocabularyError(f"expected a JSON object with the fields {', '.join(_FIELDS)}")
    if missing := [name for name in _REQUIRED if name not in row]:
        raise VocabularyError(f"lacks the field {', '.join(missing)}")
    if unknown := [name for name in row if name not in _FIELDS]:
        raise VocabularyError(f"has an unknown field {', '.join(unknown)}; expected {', '.join(_FIELDS)}")
    for name in ("synonyms", "parents"):
        if isinstance(row.get(name), list):
            row[name] = tuple(row[name])
    return Tag(**row)


def check_text(label: str, text: object) -> None:
    """Raises VocabularyError where a text is empty, or holds control characters or spaces around it."""
    if isinstance(text, str) and text and text.isprintable() and text.strip() == text:
        return  # nearly always, and three times faster than the pattern
    if not isinstance(text, str) or not _TEXT.fullmatch(text):
        raise VocabularyError(
            f"{label}: expected a text without control characters and without spaces around it, "
            f"got {brief(text)}"
        )


def _check_threshold(value: object) -> None:
    if not is_number(value) or not 0 <= value <= 1:
        raise VocabularyError(f"threshold: expected a number from 0 to 1, got {brief(value)}")


def _listed(ids: object) -> list[str]:
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        raise VocabularyError(f"expected several ids, got {brief(ids)}: type [{brief(ids)}]")
    return list(ids)
