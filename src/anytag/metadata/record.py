"""The record of what anytag wrote into a file, stored in the file: JSON text in its own XMP namespace.

It is one text rather than lists, since exiftool is slow for each item of a list.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from anytag.metadata.keywords import FIELDS, Content

TAG = "XMP-anytag:Record"


def text(content: Content) -> str:
    """The record as JSON; "" if anytag wrote nothing."""
    if not content.has_record:
        return ""
    record: dict[str, Any] = {name: list(words) for name, words in content.ours.items() if words}
    record |= {"Rejected": list(content.rejected), "Description": content.our_caption}
    record |= {"Replaced": content.replaced, "Created": content.is_created}
    record["EnvelopeRecordVersion"] = content.our_envelope_version
    return json.dumps({name: value for name, value in record.items() if value}, ensure_ascii=False)


def read(content: Content, text: str) -> Content:
    """A file's content with the fields of its record; a damaged record is ignored."""
    try:
        record = json.loads(text)
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
        our_envelope_version=bool(record.get("EnvelopeRecordVersion")),
    )


def _words(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()
