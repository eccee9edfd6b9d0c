"""What a caption's text says before its words are read: quotations, and whether it is English."""

from __future__ import annotations

import re
from collections.abc import Sequence

from anytag.parsing.grammar import Word

_MOST = 300  # letters of a quotation: a quote mark that is never closed silences nothing
_QUOTED = re.compile(
    # spaces on both inner sides or on neither: one quote mark may be the end of another quotation
    rf'(?<!\w)"(?:\S|\S[^"]{{0,{_MOST}}}\S| [^"]{{1,{_MOST}}} )"(?!\w)'
    rf"|“[^”]{{1,{_MOST}}}”|«[^»]{{1,{_MOST}}}»|„[^“”]{{1,{_MOST}}}[“”]"
    # an apostrophe within a word neither opens nor closes
    rf"|(?<!\w)['\u2018](?=\w)(?:[^'’\"]|(?<=\w)['’](?=\w)){{1,{_MOST}}}['’](?!\w)"
)
_LETTER = re.compile(r"[^\W\d_]")

# Little words of German, French, Spanish, Italian, Portuguese and Dutch that English captions hardly use.
_FOREIGN = """
    der das ein eine einen einem einer eines und mit auf im ist sind von zu dem nicht über unter vor neben
    le la les une des du et avec sur dans qui est sont aux par un
    el los las con en y del una está
    il gli lo di della dello nel nella sul sulla che e
    os um uma em na da dos ao
    een het van op naar bij de die
"""
FOREIGN = frozenset(_FOREIGN.split())
_LITTLE = "the and with of on at is are his her its to by from for near while two three that there some"
_ENGLISH = frozenset(_LITTLE.split())


def quoted(caption: str) -> list[tuple[int, int]]:
    """Spans of quotations, the writing on a sign and the like. A caption that is all in quotes has none."""
    spans = [match.span() for match in _QUOTED.finditer(caption)]
    return spans if any(_LETTER.search(caption, *gap) for gap in _between(spans, len(caption))) else []


def foreign(words: Sequence[Word]) -> bool:
    """Whether a caption is in another language of Latin letters: more of its little words than of English."""
    count = sum(word.text in FOREIGN for word in words)
    return count > 1 and count > sum(word.text in _ENGLISH for word in words)


def _between(spans: Sequence[tuple[int, int]], length: int) -> list[tuple[int, int]]:
    ends = [0, *(end for _, end in spans)]
    return list(zip(ends, [*(start for start, _ in spans), length], strict=True))
