"""What narrows a search, as SQL: tags, folder, dates. Asked before anything is compared."""

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
    """What photos must be to be looked at at all.

    Attributes:
        tags: names of tags that a photo has: the model's without those that the user rejected, what he added
            and accepted, and his keywords.
        exclude_tags: names of tags that it has not.
        folder: it lies below this one.
        after: ISO 8601, or its beginning: taken then or later.
        before: taken earlier. A photo without a date is neither.
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
        """Holds names against what there is: with one that nobody knows, finding nothing would say nothing.

        Args:
            find: as for `conditions`.

        Raises:
            LibraryError: a folder is not in the library, or a name that of no tag and no keyword.
        """
        if self.folder is not None:
            check_folder(database, self.folder)
        for name in (*self.tags, *self.exclude_tags):
            key = folded(" ".join(name.split()))
            if find(name) is None and not database.query(_KNOWN, (key, key, key))[0][0]:
                raise LibraryError(
                    f"{name!r} is no tag of the model, and nothing that photos of the library were given: "
                    "correct the name"
                )

    def conditions(self, find: Callable[[str], str | None]) -> tuple[str, list[object]]:
        """Conditions on `photos p`, each with AND before it, and their values.

        Args:
            find: the id of the tag that a name means, None where the vocabulary has none.

        Raises:
            LibraryError: a date is none, or a name.
        """
        said, values = [], list[object]()
        for names, negated in ((self.tags, ""), (self.exclude_tags, "NOT ")):
            if isinstance(names, str):
                raise LibraryError(f"tags is the single text {names!r}: expected a list, such as [{names!r}]")
            for name in names:
                condition, given = _tagged(name, find(name))
                said.append(negated + condition)
                values += given
        if self.folder is not None:
            said.append("p.path >= ? AND p.path < ?")
            values += below(os.path.abspath(self.folder))  # noqa: PTH100  # names of any kind
        for date, compare in ((self.after, ">="), (self.before, "<")):
            if date is not None:
                said.append(f"p.taken {compare} ?")
                values.append(moment(date))
        return "".join(f" AND {one}" for one in said), values


def _tagged(name: str, tag: str | None) -> tuple[str, Sequence[object]]:
    if not name.strip():
        raise LibraryError(f"{name!r} is no tag: expected a name such as 'dog'")
    folded_name = folded(" ".join(name.split()))
    is_it = "folded(name) = ?" if tag is None else "tag = ?"  # no index leads to names
    key = folded_name if tag is None else tag
    return _TAGGED.format(is_it=is_it), [key, key, key, folded_name, folded_name]


def moment(date: str) -> str:
    """The first second of a day, month or year, as photos' dates are kept.

    Raises:
        LibraryError: it is no date.
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
            f"{date!r} is no date: give a year, a month or a day, such as 2024, 2024-05 or 2024-05-31"
        ) from error
