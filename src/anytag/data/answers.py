"""Extract a tag's description from the answer of a chat model, or reject the answer."""

from __future__ import annotations

import re
import unicodedata

_QUOTES = str.maketrans("\u2018\u2019\u201c\u201d", "''\"\"")
_EMPHASIS = re.compile(r"(\*\*|__|\*|`)(?=\S)(.+?)(?<=\S)\1")
_MARKUP = re.compile(
    r"^(#{1,6}\s|[-*+\u2022]\s|\d+[.)]\s|>|\|)"  # a heading, a list, a quotation, a table
    r"|:\s([-*+\u2022]|\d+[.)])\s"  # a list after its introduction
    r"|```|</?[a-z]\w*[^<>]*>"
)
"""Markup, in text whose whitespace has been normalised."""

_CHAT_PATTERNS = (
    r"^(sure|certainly|of course|absolutely|okay|ok|alright|good question|hello|hi|yes|no)\b\s*[,!.:]",
    r"^(here is|here are|here's|here you|below (is|are)|the following|let me|let's|thank)\b",
    r"^(sorry|apolog|my apologies|unfortunately|regrettably|error\b|(n/a|none|unknown|null)\.?$)",
    r"\b(i|i'm|i'd|i'll|i've) (am|was|can|can't|cannot|could|do|don't|have|haven't|will|won't)\b",
    r"\bi'm (sorry|afraid|unable|not|just|an?|happy|glad)\b",
    r"\bi (apologi|must|need|would|understand|think|believe|hope|see|lack)",
    r"\b(as|being) an? (ai|a\.i\.|artificial intelligence|text-based|virtual assist)",
    r"\b(language model|ai assistant|my training|my knowledge|would you like|do you want)\b",
)
_CHAT = re.compile("|".join(_CHAT_PATTERNS), re.IGNORECASE)
"""Conversational phrases: agreement, apologies, refusals, first person."""


def description(answer: str, question: str) -> str:
    """Clean an answer to a one-line description in plain text, without surrounding emphasis and quotes.

    Returns:
        "" if it is not a description: a refusal, an introduction, a list, the question repeated, no words.
    """
    plain = "".join(" " if unicodedata.category(one) in ("Cc", "Zl", "Zp") else one for one in answer)
    text = " ".join(plain.translate(_QUOTES).split())
    if _MARKUP.search(text):
        return ""
    for _ in range(3):  # bold within italics within quotes
        text = _EMPHASIS.sub(r"\2", text).strip()
        if len(text) > 1 and text[0] == text[-1] == '"' and '"' not in text[1:-1]:
            text = text[1:-1].strip()
    if _MARKUP.search(text) or _CHAT.search(text):
        return ""
    text_letters, question_letters = _letters(text), _letters(question)
    if (
        len(text_letters) < 3
        or text.endswith("?")
        or (question_letters and text_letters.startswith(question_letters))
    ):
        return ""
    return text


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.lower()))
