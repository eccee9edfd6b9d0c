"""Search filters as SQL conditions: tags, folder and dates, applied before ranking."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from anytag.errors import LibraryError
from anytag.library.database import Database
from anytag.library.roots import below, check_folder
from anytag.library.words import folded

_DATE = re.compile(r"(\d{4})(?:-(\d\d?)(?:-(\d\d?)(?:[T ](\d\d):(\d\d)(?::(\d\d))?)?)?)?")

_TAGGED = """p.id IN (
SELECT photo FROM tags WHERE {is_it} EXCEPT
SELECT photo FROM decisions WHERE kind = 'rejected' AND {is_it} UNION
SELECT photo FROM decisions WHERE kind != 'rejected' AND ({is_it} OR folded(name) = ?) UNION
SELECT photo FROM keywords WHERE holds(path, ?))"""


_KNOWN = """SELECT EXISTS (SELECT 1 FROM decisions WHERE folded(name) = ?)
OR EXISTS (SELECT 1 FROM keywords WHERE holds(path, ?))
OR EXISTS (SELECT 1 FROM tags WHERE folded(name) = ?)"""


@dataclass(frozen=True, slots=True)
class Filters:
    """Conditions that photos must meet.

    Attributes:
        tags: names that a photo has: as a tag of the model that the user did not reject, as an added or
            accepted tag, or as a keyword.
        exclude_tags: names that it does not have.
        folder: a folder that contains it.
        after: it was taken then or later; ISO 8601 or a prefix of it.
        before: it was taken earlier. Photos without a date meet neither.
    """

    tags: Sequence[str] = ()
    exclude_tags: Sequence[str] = ()
    folder: str | os.PathLike[str] | None = None
    after: str | None = None
    before: str | None = None

    def __bool__(self) -> bool:
        return bool(
            self.tags
            or self.exclude_tags
            or self.folder is not None
            or self.after is not None
            or self.before is not None
        )

    def check(self, database: Database, find: Callable[[str], str | None]) -> None:
        """Check that the folder and all names are known, so that typos are not mistaken for empty results.

        Args:
            database: of the library.
            find: as for `conditions`.

        Raises:
            LibraryError: the folder is not in the library, or a name is not that of a tag or keyword.
        """
        if self.folder is not None:
            check_folder(database, self.folder)
        for name in (*self.tags, *self.exclude_tags):
            key = folded(" ".join(name.split()))
            if find(name) is None and not database.query(_KNOWN, (key, key, key))[0][0]:
                raise LibraryError(
                    f"{name!r} is neither a tag of the model nor a tag or keyword in the library: give "
                    "another name"
                )

    def conditions(self, find: Callable[[str], str | None]) -> tuple[str, list[object]]:
        """SQL conditions on `photos p`, each after an AND, and their values.

        Args:
            find: returns the id of the tag with a name, or None.

        Raises:
            LibraryError: a date or a name is invalid.
        """
        found, values = [], list[object]()
        for names, negated in ((self.tags, ""), (self.exclude_tags, "NOT ")):
            if isinstance(names, str):
                raise LibraryError(f"tags is the single text {names!r}: expected a list, such as [{names!r}]")
            for name in names:
                condition, given = _tagged(name, find(name))
                found.append(negated + condition)
                values += given
        if self.folder is not None:
            found.append("p.path >= ? AND p.path < ?")
            values += below(os.path.abspath(self.folder))  # noqa: PTH100  # names of any kind
        for date, compare in ((self.after, ">="), (self.before, "<")):
            if date is not None:
                found.append(f"p.taken {compare} ?")
                values.append(moment(date))
        return "".join(f" AND {one}" for one in found), values


def _tagged(name: str, tag: str | None) -> tuple[str, Sequence[object]]:
    if not name.strip():
        raise LibraryError(f"{name!r} is not a tag: expected a name such as 'dog'")
    folded_name = folded(" ".join(name.split()))
    is_it = "folded(name) = ?" if tag is None else "tag = ?"  # names are not indexed
    key = folded_name if tag is None else tag
    return _TAGGED.format(is_it=is_it), [key, key, key, folded_name, folded_name]


def moment(date: str) -> str:
    """The first second of a day, month or year, in the format of stored dates.

    Raises:
        LibraryError: it is not a date.
    """
    found = _DATE.fullmatch(str(date).strip())
    try:
        if found is None:
            raise ValueError
        given = [int(part) for part in found.groups() if part]
        year, month, day, hour, minute, second = given + [0, 1, 1, 0, 0, 0][len(given) :]
        return datetime(year, month, day, hour, minute, second).isoformat()
    except ValueError as error:
        raise LibraryError(
            f"{date!r} is not a date: give a year, a month or a day, such as 2024, 2024-05 or 2024-05-31"
        ) from error
