"""Tags as data: a `Tag`, and an ordered `Vocabulary` of them, stored as one JSON line per tag.

    {"id": "hot dog", "name": "hot dog", "kind": "object", "names": {"de": "Hotdog"},
     "synonyms": ["frankfurter in a bun"], "parents": ["food"], "threshold": 0.41}

A vocabulary is immutable: `subset`, `merge` and the like return a new one.
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
NOUN_KINDS: tuple[Kind, ...] = ("object", "scene")
"""Kinds of tags that are nouns."""

CUSTOM_PREFIX = "custom:"
"""Prefix of the ids of custom tags; no trained tag may have it."""

_GAPS = dict.fromkeys(map(ord, "-_ \t\n\r\f\v"))
# No surrounding spaces, no control characters (they would affect a terminal), no lone surrogates.
_TEXT = re.compile(r"(?!\s)[^\x00-\x1f\x7f-\x9f\ud800-\udfff]+(?<!\s)")


@dataclass(frozen=True, slots=True)
class Tag:
    """One tag of a vocabulary.

    Attributes:
        id: unique in a vocabulary, permanent.
        name: display name; names may repeat (bass the fish, bass the instrument).
        kind: object, scene, attribute or action.
        names: the name in other languages, by language code.
        synonyms: other names of the same tag.
        parents: ids of broader tags; they need not be in the same vocabulary.
        threshold: the calibrated probability in [0, 1] from which the tag is returned.

    Raises:
        VocabularyError: a field has the wrong type, is empty or out of range; names the field.
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
                f"id: {brief(self.id)} begins with {CUSTOM_PREFIX!r}, which is reserved for custom tags"
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
        return hash((self.id, self.name))  # consistent with equality; `names` may be an unhashable dict

    def to_dict(self) -> dict[str, Any]:
        """Convert to the row of a vocabulary file."""
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
    """An ordered, immutable sequence of tags: tag number k is column k of a model's logits.

    Args:
        tags: may be empty; ids must be unique.

    Raises:
        VocabularyError: two tags have the same id.
    """

    def __init__(self, tags: Iterable[Tag]) -> None:
        self._tags = tuple(tags)
        self._places: dict[str, int] = {}
        for place, tag in enumerate(self._tags):
            first = self._places.setdefault(tag.id, place)
            if first != place:
                message = f"row {place + 1}: id {tag.id!r} is already used in row {first + 1}"
                raise VocabularyError(f"{message}; ids are unique, names may repeat")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Vocabulary:
        """Read a vocabulary file: UTF-8, one JSON object per line; empty lines are skipped.

        Raises:
            VocabularyError: the file or a row is invalid; names the file, the line and the field.
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
                    raise VocabularyError(f"id {tag.id!r} is already used in line {first}")
            except VocabularyError as error:
                raise VocabularyError(f"{os.fspath(path)}, line {number}: {error}") from error
            tags.append(tag)
        return cls(tags)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a vocabulary file, atomically.

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
        """Return the tag with an index or an id."""
        return self._tags[self.index(key) if isinstance(key, str) else key]

    def __contains__(self, key: object) -> bool:
        """Whether an id or a tag is in the vocabulary."""
        place = self._place(key.id if isinstance(key, Tag) else key)
        return place is not None and (not isinstance(key, Tag) or self._tags[place] == key)

    def _place(self, id: object) -> int | None:
        return self._places.get(id) if isinstance(id, str) else None

    def __eq__(self, other: object) -> bool:
        return self._tags == other._tags if isinstance(other, Vocabulary) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # tags contain mappings

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} tags)"

    @property
    def ids(self) -> tuple[str, ...]:
        """All ids, in order."""
        return tuple(self._places)

    def index(self, id: str) -> int:
        """Return the index of an id, from 0.

        Raises:
            VocabularyError: there is no such id; suggests similar ones.
        """
        place = self._place(id)
        if place is None:
            close = ", ".join(map(repr, difflib.get_close_matches(str(id)[:200], self._places, n=3)))
            hint = f"did you mean {close}?" if close else "see the `id` fields of the vocabulary file"
            raise VocabularyError(f"no tag of these {len(self)} has the id {brief(id)}; {hint}")
        return place

    def find(self, text: str) -> Tag | None:
        """Return the tag with this id, else name, else synonym, else name in another language, else None.

        Case, spaces and hyphens are ignored: "Hot-Dog" finds "hot dog". The first match is returned.

        Raises:
            VocabularyError: `text` is not a string.
        """
        if not isinstance(text, str):
            raise VocabularyError(f"got {brief(text)}, expected a text: find('dog')")
        return self._words.get(matching_key(text))

    @cached_property
    def broader(self) -> tuple[tuple[int, ...], ...]:
        """For each tag the indices of all broader tags in this vocabulary, indirect ones included."""
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
        """Names from the broadest tag to the tag itself, ("animal", "dog"), along the deepest parents.

        Raises:
            VocabularyError: the id is not in the vocabulary.
        """
        at = self.index(id)
        names = [self[at].name]
        while (parent := self._deepest_parent(at)) is not None:
            names.insert(0, self[parent].name)
            at = parent
        return tuple(names)

    def _deepest_parent(self, at: int) -> int | None:
        """The parent with the most broader tags, ignoring parents that are in turn narrower than the tag."""
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
        words.pop("", None)  # from texts that consist of hyphens
        return words

    def subset(self, ids: Iterable[str]) -> Vocabulary:
        """Return a vocabulary of these tags, in the given order."""
        return Vocabulary(self._tags[self.index(id)] for id in _listed(ids))

    def exclude(self, ids: Iterable[str]) -> Vocabulary:
        """Return a vocabulary without these tags."""
        out = {self.index(id) for id in _listed(ids)}
        return Vocabulary(tag for place, tag in enumerate(self) if place not in out)

    def merge(self, other: Vocabulary) -> Vocabulary:
        """Append the tags of `other` that are not in this vocabulary.

        Raises:
            VocabularyError: the two define an id differently.
        """
        for tag in other:
            if tag.id in self and tag not in self:
                raise VocabularyError(
                    f"id {tag.id!r} is defined differently in the two: exclude it from one of them first"
                )
        return Vocabulary([*self, *(tag for tag in other if tag.id not in self)])

    def find_all(self, names: Iterable[str]) -> tuple[str, ...]:
        """Ids of the tags with these names, as for `find`, and of all narrower tags: dog and puppy.

        Raises:
            VocabularyError: a name is unknown; suggests similar ones.
        """
        numbers = {self.index(tag.id if (tag := self.find(name)) else name) for name in _listed(names)}
        return tuple(tag.id for k, tag in enumerate(self) if k in numbers or numbers & {*self.broader[k]})

    def in_language(self, code: str) -> Vocabulary:
        """Return the same tags with their names in a language ("de"), if they have one.

        The previous names become synonyms.

        Raises:
            VocabularyError: no tag has a name in it; lists the available languages.
        """
        codes = {one.casefold(): one for tag in self for one in tag.names}
        if (key := codes.get(str(code).casefold())) is None:
            languages = ", ".join(sorted(codes.values())) or "none"
            raise VocabularyError(f"no tag has a name in the language {brief(code)}; available: {languages}")
        return Vocabulary(
            replace(tag, name=tag.names[key], synonyms=(tag.name, *tag.synonyms)) if key in tag.names else tag
            for tag in self
        )

    def rename(self, names: Mapping[str, str]) -> Vocabulary:
        """Return the same tags with other display names, given by id; ids are kept."""
        return self._changed("name", names)

    def with_thresholds(self, thresholds: float | Mapping[str, float]) -> Vocabulary:
        """Return the same tags with one threshold for all, or with new ones by id; the others keep theirs."""
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
    """Normalise a name for comparison: NFKC, case folded, without spaces, underscores and hyphens."""
    if text.isascii():  # a fast path: nearly always, and ten times faster
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
    """Raise VocabularyError if a text is empty, or has control characters or surrounding spaces."""
    if isinstance(text, str) and text and text.isprintable() and text.strip() == text:
        return  # a fast path: nearly always, and three times faster than the pattern
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
        raise VocabularyError(f"expected a list of ids, got {brief(ids)}: use [{brief(ids)}]")
    return list(ids)
