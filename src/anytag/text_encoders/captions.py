"""Captions as in the published training: cleaned and truncated."""

from __future__ import annotations

import re

MAX_WORDS = 30

_DROPPED = re.compile(r"[.!\"()*#:;~]")
_GAP = re.compile(r"\s{2,}")


def clean_caption(caption: str, *, max_words: int = MAX_WORDS) -> str:
    """Lower-case a caption, remove ``. ! " ( ) * # : ; ~``, and keep the first `max_words` words.

    Runs of whitespace become one space, and words are separated by single spaces: a single tab is kept, and
    joins its neighbours to one word. Commas, quotes, slashes, hyphens and question marks are kept.

    Args:
        caption: any text.
        max_words: number of words to keep; 30 in the published data sets.
    """
    text = _GAP.sub(" ", _DROPPED.sub(" ", caption.lower()))
    text = text.rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:max_words])
