"""Tags as given in Python, parsed into `CustomTag` or a vocabulary's `Tag`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from unicodedata import category

from anytag.errors import AnytagError, VocabularyError, brief, is_number, is_whole
from anytag.vocabulary import Tag, Vocabulary, check_text


@dataclass(frozen=True, slots=True)
class CustomTag:
    """A user-defined tag: its name, and descriptions of what it looks like.

    Raises:
        VocabularyError: a text is empty, or has control characters or surrounding spaces.
    """

    name: str
    descriptions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        value: object = self.descriptions
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise VocabularyError(
                f"descriptions of {brief(self.name)}: got {brief(value)}, expected a list of texts, "
                "as in ('a long arm with a cable',)"
            )
        object.__setattr__(self, "descriptions", tuple(value))
        for text in (self.name, *self.descriptions):
            check_text("custom tag", text)


def parse_custom_tag(line: str) -> CustomTag:
    """Parse `name` or `name: description; description`; whitespace is normalised to single spaces.

    Raises:
        VocabularyError: the name is empty, consists of punctuation, or has control characters.
    """
    name, _, rest = line.partition(":")
    name = " ".join(name.split())
    if all(category(letter).startswith(("P", "Z")) for letter in name):
        raise VocabularyError(
            f"{brief(line)} is not a tag: expected `name` or `name: description; description`"
        )
    return CustomTag(name, tuple(text for part in rest.split(";") if (text := " ".join(part.split()))))


TagLike = str | CustomTag | Tag
"""A tag as users request it: "name", "name: description; description", or one of the parsed classes."""

Requested = CustomTag | Tag
_NAME_WORDS = 4  # maximum words of a name in another language


def parse_requests(
    tags: Iterable[TagLike] | Mapping[str, object] | None, what: str
) -> tuple[Requested, ...] | None:
    """Parse requested tags; None stays None.

    Args:
        tags: a list of tags, or a mapping of names to descriptions.
        what: the argument's name, for messages.

    Raises:
        VocabularyError: not a list of tags, or an empty one.
    """
    if tags is None:
        return None
    if isinstance(tags, str | CustomTag | Tag):
        raise VocabularyError(
            f"{what} is the single tag {brief(tags)}: expected a list, as in {what}=[{brief(tags)}]"
        )
    if not isinstance(tags, Iterable):
        raise VocabularyError(f"{what} is {brief(tags)}: expected a list of tags, as in {what}=['red car']")
    parsed: tuple[Requested, ...]
    if isinstance(tags, Mapping):
        parsed = tuple(_described(name, texts) for name, texts in tags.items())
    else:
        parsed = tuple(_parsed(tag) for tag in tags)
    if not parsed:
        raise VocabularyError(f"{what} is empty: give a tag, or leave {what} out for the whole vocabulary")
    return parsed


def check_numbers(top_k: int | None, threshold: float | None) -> None:
    """Check the arguments that limit the number of tags.

    Raises:
        AnytagError: a value has the wrong type or is out of range.
    """
    if top_k is not None and (not is_whole(top_k) or top_k < 1):
        raise AnytagError(f"top_k is {brief(top_k)}: expected a whole number, 1 or more")
    if threshold is not None and not (is_number(threshold) and 0 <= threshold <= 1):
        raise AnytagError(f"threshold is {brief(threshold)}: expected a probability from 0 to 1")


def in_english(text: str, unknown: Iterable[str], vocabulary: Vocabulary) -> str:
    """Translate names that a vocabulary has in another language into English.

    Args:
        unknown: words that the text encoder does not know; names without any of them are kept.
    """
    unknown_words = set(unknown)
    if not unknown_words:
        return text
    words, translated = text.split(), []
    while words:
        for count in range(min(_NAME_WORDS, len(words)), 0, -1):
            before, name, after = _without_punctuation(" ".join(words[:count]))
            known = vocabulary.find(name) if unknown_words & {*name.split()} else None
            if known or count == 1:
                break
        translated.append(f"{before}{known.name if known else name}{after}")
        del words[:count]
    return " ".join(translated)


def _without_punctuation(text: str) -> tuple[str, str, str]:
    """A text without the punctuation and spaces around it, between that before and that after it."""
    start, end = 0, len(text)
    while start < end and category(text[start])[0] in "PSZ":
        start += 1
    while end > start and category(text[end - 1])[0] in "PSZ":
        end -= 1
    return text[:start], text[start:end], text[end:]


def _parsed(tag: object) -> Requested:
    if isinstance(tag, CustomTag | Tag):
        return tag
    if isinstance(tag, str):
        return parse_custom_tag(tag)
    raise VocabularyError(
        f"a tag cannot be a {type(tag).__name__}, got {brief(tag)}: give text such as 'red car' or "
        "'red car: a car painted red', a CustomTag, or descriptions: {'red car': ['a car painted red']}"
    )


def _described(name: object, value: object) -> CustomTag:
    """Parse one entry of a mapping of descriptions; a single text is accepted instead of a list."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(name, str) or not isinstance(texts, Iterable):
        raise VocabularyError(
            f"got {brief(value)} for the tag {brief(name)}: "
            "expected descriptions by name, as in {'red car': ['a car painted red']}"
        )
    return CustomTag(name, tuple(texts))
