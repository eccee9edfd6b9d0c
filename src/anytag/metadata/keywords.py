"""Merge the user's keywords and anytag's: the logic, without file access.

A keyword is a path such as ("animal", "dog"), broadest first, which each metadata field formats in its own
way. Words are kept unchanged and compared in Unicode form NFC.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

Keyword = tuple[str, ...]
"""A hierarchical keyword, broadest first: ("dog",) or ("animal", "dog")."""

Field = Literal["Subject", "TagsList", "HierarchicalSubject", "Keywords"]
Lists = Mapping[Field, tuple[str, ...]]

FLAT: tuple[Field, ...] = ("Subject", "Keywords")
TREES: dict[Field, str] = {"TagsList": "/", "HierarchicalSubject": "|"}
FIELDS: tuple[Field, ...] = ("Subject", "TagsList", "HierarchicalSubject", "Keywords")
"""dc:subject, digiKam:TagsList, lr:hierarchicalSubject, and IPTC Keywords, which only photos have."""

_IPTC_BYTES = 64  # maximum of an IPTC keyword


@dataclass(frozen=True)
class Content:
    """The keywords and the caption of one file, and anytag's record of what it wrote there.

    Attributes:
        lists: entries by field.
        ours: entries that anytag added, by its record.
        rejected: words of anytag that the user removed.
        caption: of dc:description; "" if there is none.
        other_caption: caption of IPTC or EXIF.
        our_caption: the caption that anytag wrote to dc:description.
        replaced: the caption before.
        is_created: whether anytag created this sidecar.
        has_iptc: whether it is a photo with an IPTC block.
        iptc_charset: "UTF8", "unmarked" for undeclared UTF-8, or "" for Latin-1.
        has_envelope_version: whether that block has EnvelopeRecordVersion, which exiftool adds.
        our_envelope_version: whether it was added with words of anytag.
        has_digest: whether there is a Photoshop digest of the IPTC block, which must be updated.
        sidecar_of: names and suffixes of the photo that a sidecar refers to.
        unreadable: a field with text that is not UTF-8, which writing would destroy; else "".
        version: version of the file when it was read, see `_io.version`; None if it did not exist.
    """

    lists: Lists = field(default_factory=dict)
    ours: Lists = field(default_factory=dict)
    rejected: tuple[str, ...] = ()
    caption: str = ""
    other_caption: str = ""
    our_caption: str = ""
    replaced: str = ""
    is_created: bool = False
    has_iptc: bool = False
    iptc_charset: str = ""
    has_envelope_version: bool = False
    our_envelope_version: bool = False
    has_digest: bool = False
    sidecar_of: tuple[str, ...] = ()
    unreadable: str = ""
    version: tuple[int, ...] | None = None

    @property
    def has_record(self) -> bool:
        """Whether anytag has written to this file."""
        return bool(any(self.ours.values()) or self.rejected or self.our_caption or self.is_created)

    def users(self, name: Field) -> tuple[str, ...]:
        """The entries of a field that anytag did not add."""
        ours = _keys(self.ours.get(name, ()))
        return tuple(entry for entry in self.lists.get(name, ()) if _key(entry) not in ours)

    @property
    def keywords(self) -> tuple[Keyword, ...]:
        """The user's keywords."""
        return read([self])

    def now_rejected(self) -> tuple[str, ...]:
        """Words of anytag that the user has removed, now or earlier, and not added again.

        An entry counts as removed if it is missing from a field that has other entries, or if all fields are
        empty.
        """
        present = {name: {_fold(entry).casefold() for entry in self.lists.get(name, ())} for name in FIELDS}
        is_empty = not any(present.values())
        found = dict.fromkeys(self.rejected)
        for name in FIELDS:
            if present[name] or is_empty:
                gone = (one for one in self.ours.get(name, ()) if _fold(one).casefold() not in present[name])
                found.update(dict.fromkeys(_leaf(name, entry) for entry in gone))
        back = {_loose(word[-1]) for word in self.keywords}
        return tuple(word for word in found if _loose(word) not in back)


def read(contents: Iterable[Content]) -> tuple[Keyword, ...]:
    """The user's keywords in a photo and its sidecars, merged over all fields, without duplicates.

    A flat word that is the last part of a path is merged with it; an entry of a hierarchical field that is
    also a flat word, such as 24/7, is flat.
    """
    lists: dict[Field, dict[str, str]] = {name: {} for name in FIELDS}
    for content in contents:
        for name in FIELDS:
            for entry in content.users(name):
                if entry.strip():
                    lists[name].setdefault(_key(entry), entry)
    flat = dict(lists["Subject"])
    for key, word in lists["Keywords"].items():
        if not any(_is_cut(word, other) for other in flat.values()):
            flat.setdefault(key, word)
    spelled = {_fold(word): word for word in reversed(flat.values())}
    trees: dict[Keyword, Keyword] = {}
    for name, separator in TREES.items():
        for entry in lists[name].values():
            parts = [part for part in entry.split(separator) if part.strip()]
            if parts and _fold(entry) not in spelled:
                path = tuple(spelled.get(_fold(part), part) for part in parts)
                trees.setdefault(tuple(map(_fold, path)), path)
    ends = {_key(path[-1]) for path in trees.values()}
    others = (_part(word, trees) or (word,) for key, word in flat.items() if key not in ends)
    return tuple(dict.fromkeys((*trees.values(), *others)))


def wanted(
    contents: Iterable[Content],
    ours: Iterable[Keyword],
    rejected: Iterable[str] = (),
    accepted: Iterable[str] = (),
) -> tuple[tuple[Keyword, ...], tuple[str, ...]]:
    """The union of the user's keywords and ours without rejected ones, and the words rejected in the files.

    Args:
        contents: of the photo and its sidecars.
        ours: keywords of anytag, best first; for words that the user has, the user's spelling is used.
        rejected: further words that must not be written.
        accepted: words that are written although they were removed from a file.
    """
    contents, back = list(contents), {_loose(word) for word in accepted}
    gone = dict.fromkeys(word for content in contents for word in content.now_rejected())
    removed = tuple(word for word in gone if _loose(word) not in back)
    refused = {_loose(word) for word in (*removed, *rejected)}
    found = [keyword for keyword in read(contents) if _loose(keyword[-1]) not in refused]
    taken = {_key(keyword[-1]).casefold() for keyword in found}
    for keyword in ours:
        if (word := _key(keyword[-1]).casefold()) not in taken and _loose(word) not in refused:
            taken.add(word)
            found.append(keyword)
    return tuple(found), removed


def merged(
    content: Content, keywords: Iterable[Keyword], rejected: tuple[str, ...], names: Iterable[Field]
) -> Content:
    """A file's new content: the user's entries unchanged, ours updated in each field.

    Args:
        content: the current content.
        keywords, rejected: as returned by `wanted`.
        names: fields to write.
    """
    keywords = list(keywords)
    lists, ours = dict(content.lists), dict(content.ours)
    for name in names:
        users = content.users(name)
        there = {_entry_key(name, entry) for entry in users}
        missing = {_entry_key(name, entry): entry for entry in _entries(name, keywords)}
        missing = {key: entry for key, entry in missing.items() if key not in there}
        now = [
            entry
            for entry in content.lists.get(name, ())
            if entry in users or _entry_key(name, entry) in missing
        ]
        have = {_entry_key(name, entry) for entry in now}
        now += [entry for key, entry in missing.items() if key not in have]
        lists[name] = tuple(now)
        ours[name] = tuple(entry for entry in now if _entry_key(name, entry) in missing)
    added = bool(ours.get("Keywords")) and not content.has_envelope_version
    return replace(
        content, lists=lists, ours=ours, rejected=rejected,
        our_envelope_version=added or content.our_envelope_version,
    )  # fmt: skip


def captioned(content: Content, contents: Iterable[Content], caption: str, *, overwrite: bool) -> Content:
    """A file's new content with a caption, unless the user has one or has removed ours.

    Args:
        content: of the file.
        contents: of the photo and all its sidecars.
        caption: one line.
        overwrite: replace a caption of the user, which `undone` restores.
    """
    is_ours = bool(content.our_caption) and content.caption == content.our_caption
    users = any(one.other_caption or one.caption not in ("", one.our_caption) for one in contents)
    if not is_ours and not overwrite and (users or content.our_caption):
        return content
    replaced = content.replaced if is_ours else content.caption
    return replace(content, caption=caption, our_caption=caption, replaced=replaced)


def undone(content: Content) -> Content:
    """A file's content without what anytag wrote, and without its record.

    Words that the user has since placed in a hierarchy are kept.
    """
    lists: dict[Field, tuple[str, ...]] = {name: content.users(name) for name in FIELDS}
    trees = [{_leaf(name, entry) for entry in lists[name]} for name in TREES]
    placed = _keys(trees[0] & trees[1])
    for name in FLAT:
        keep = {*_keys(lists[name]), *placed}
        lists[name] = tuple(entry for entry in content.lists.get(name, ()) if _key(entry) in keep)
    return replace(
        uncaptioned(content), lists=lists, ours={}, rejected=(), is_created=False, our_envelope_version=False
    )


def uncaptioned(content: Content) -> Content:
    """A file's content without our caption; the user's is restored."""
    if not content.our_caption:
        return content
    is_ours = content.caption == content.our_caption
    text = content.replaced if is_ours else content.caption
    after = replace(content, caption=text, our_caption="", replaced="")
    has_more = any(after.ours.values()) or bool(after.rejected)
    return replace(after, is_created=after.is_created and has_more)


def words(content: Content) -> tuple[str, ...]:
    """The keywords of a file as shown to users: the last parts of all entries, without duplicates."""
    found: dict[str, str] = {}
    for name in FIELDS:
        for entry in content.lists.get(name, ()):
            found.setdefault(_fold(_leaf(name, entry)), _leaf(name, entry))
    return tuple(found.values())


def clean(words: Iterable[str]) -> Keyword:
    """Normalise words for writing: no control characters, single spaces; empty ones are dropped."""
    shown = (
        "".join(c if c.isprintable() or c.isspace() or _joins(c) else "" for c in word) for word in words
    )
    return tuple(word for word in (" ".join(one.split()) for one in shown) if word)


def _joins(character: str) -> bool:
    return unicodedata.category(character) == "Cf"  # joiners of emoji and scripts, direction marks


def _entries(name: Field, keywords: Iterable[Keyword]) -> Iterator[str]:
    """Format keywords for a field. Separators within words are replaced by the other one, as in Immich."""
    for keyword in keywords:
        if name == "TagsList":
            yield "/".join(part.replace("/", "|") for part in keyword)
        elif name == "HierarchicalSubject":
            yield "|".join(part.replace("|", "/") for part in keyword)
        else:
            yield keyword[-1] if name == "Subject" else _cut(keyword[-1])


def _leaf(name: Field, entry: str) -> str:
    return entry.rsplit(TREES[name], 1)[-1] if name in TREES else entry


def _entry_key(name: Field, entry: str) -> str:
    return _fold(entry) if name in TREES else _key(entry)


def _key(word: str) -> str:
    return unicodedata.normalize("NFC", word)


def _keys(words: Iterable[str]) -> set[str]:
    return set(map(_key, words))


def _fold(entry: str) -> str:
    return _key(entry).replace("|", "/")


def _loose(word: str) -> str:
    return _fold(word).casefold()


def _cut(word: str) -> str:
    """Truncate a word to the maximum of IPTC."""
    return word.encode()[:_IPTC_BYTES].decode(errors="ignore")


def _is_cut(word: str, other: str) -> bool:
    return len(word.encode()) > _IPTC_BYTES - 4 and word != other and word == _cut(other)


def _part(word: str, trees: Mapping[Keyword, Keyword]) -> Keyword | None:
    """The prefix of a path that ends in a word, in the user's spelling."""
    key = _fold(word)
    return next((path[: folded.index(key) + 1] for folded, path in trees.items() if key in folded), None)
