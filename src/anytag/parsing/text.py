"""Checks of a caption's text before parsing: quotations, and whether it is English."""

from __future__ import annotations

import re
from collections.abc import Sequence

from anytag.parsing.grammar import Word

_MAX_QUOTATION = 300  # characters, so that an unclosed quotation mark has no effect
_QUOTED = re.compile(
    # spaces on both inner sides or on neither, because a quotation mark may close another quotation
    rf'(?<!\w)"(?:\S|\S[^"]{{0,{_MAX_QUOTATION}}}\S| [^"]{{1,{_MAX_QUOTATION}}} )"(?!\w)'
    rf"|“[^”]{{1,{_MAX_QUOTATION}}}”|«[^»]{{1,{_MAX_QUOTATION}}}»|„[^“”]{{1,{_MAX_QUOTATION}}}[“”]"
    # an apostrophe within a word is not a quotation mark
    rf"|(?<!\w)['\u2018](?=\w)(?:[^'’\"]|(?<=\w)['’](?=\w)){{1,{_MAX_QUOTATION}}}['’](?!\w)"
)
_LETTER = re.compile(r"[^\W\d_]")

# Function words of German, French, Spanish, Italian, Portuguese and Dutch that are rare in English captions;
# not "van" and "die", which are common in them.
_FOREIGN = """
    der das ein eine einen einem einer eines und mit auf im ist sind von zu dem nicht über unter vor neben
    le la les une des du et avec sur dans qui est sont aux par un
    el los las con en y del una está
    il gli lo di della dello nel nella sul sulla che e
    os um uma em na da dos ao
    een het op naar bij de
"""
FOREIGN = frozenset(_FOREIGN.split())
_FUNCTION_WORDS = (
    "the and with of on at is are his her its to by from for near while two three that there some"
)
_ENGLISH = frozenset(_FUNCTION_WORDS.split())


def quoted(caption: str) -> list[tuple[int, int]]:
    """Spans of quotations, such as the writing on a sign; none if the whole caption is quoted."""
    spans = [match.span() for match in _QUOTED.finditer(caption)]
    return spans if any(_LETTER.search(caption, *gap) for gap in _between(spans, len(caption))) else []


def is_foreign(words: Sequence[Word]) -> bool:
    """Whether a caption is in another language with Latin script, judging by its function words."""
    texts = {word.text for word in words}
    return len(texts & FOREIGN) > max(1, len(texts & _ENGLISH))


def _between(spans: Sequence[tuple[int, int]], length: int) -> list[tuple[int, int]]:
    ends = [0, *(end for _, end in spans)]
    return list(zip(ends, [*(start for start, _ in spans), length], strict=True))
