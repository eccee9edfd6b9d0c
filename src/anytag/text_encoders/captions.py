"""Captions as the published training reads them: cleaned, and cut to their first words."""

from __future__ import annotations

import re

MAX_WORDS = 30

_DROPPED = re.compile(r"[.!\"()*#:;~]")
_GAP = re.compile(r"\s{2,}")


def clean_caption(caption: str, *, max_words: int = MAX_WORDS) -> str:
    """Small letters, without the signs ``. ! " ( ) * # : ; ~``, gaps as one space, at most `max_words` words.

    Words are separated by single spaces: a lone tab stays, and joins what counts as one word. Comma, quote,
    slash, hyphen and question mark stay.

    Args:
        caption: any text.
        max_words: words to keep; the published data sets keep 30.
    """
    text = _GAP.sub(" ", _DROPPED.sub(" ", caption.lower()))
    text = text.rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:max_words])
