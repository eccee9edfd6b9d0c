"""What anytag knows to have written into a file, kept in that file: one text in a namespace of its own.

One text and not lists, since each word of a list costs exiftool as much as a word of the user's.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from anytag.metadata.keywords import FIELDS, Content

TAG = "XMP-anytag:Record"


def text(content: Content) -> str:
    """As it stands in the file; "" where anytag wrote nothing."""
    if not content.has_record:
        return ""
    said: dict[str, Any] = {name: list(words) for name, words in content.ours.items() if words}
    said |= {"Rejected": list(content.rejected), "Description": content.our_caption}
    said |= {"Replaced": content.replaced, "Created": content.is_created}
    return json.dumps({name: value for name, value in said.items() if value}, ensure_ascii=False)


def read(content: Content, said: str) -> Content:
    """A file's content with what its record says; a record that is damaged says nothing."""
    try:
        record = json.loads(said)
    except ValueError:
        return content
    if not isinstance(record, dict):
        return content
    return replace(
        content,
        ours={name: _words(record.get(name)) for name in FIELDS},
        rejected=_words(record.get("Rejected")),
        our_caption=str(record.get("Description", "")),
        replaced=str(record.get("Replaced", "")),
        is_created=bool(record.get("Created")),
    )


def _words(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()
