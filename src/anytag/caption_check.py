"""Check captions against the photo's tags, and compose plain captions from tags."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property

from anytag.parsing import Parser
from anytag.results import TagScore
from anytag.vocabulary import NOUN_KINDS, Vocabulary

NEUTRAL_WORDS = {"man": "person", "woman": "person", "boy": "child", "girl": "child", "child": "person"}
"""Replacements for words of gender and age that are uncertain."""
MIN_PERSON_SCORE = 0.3
"""Score from which a caption may state a gender or an age."""
MAX_TAGS = 3
"""Maximum number of tags that guide a caption or that a plain caption names."""
HIGH_SCORE, GENERIC = 0.9, 60
"""A tag below this score is replaced by its parent, unless that has at least this many narrower tags."""
LIKELY = 0.5
"""Score below which no caption names a tag."""
EMPTY = "a photo"
"""The plain caption of a photo in which nothing is recognised; it is not written to files."""
_SETTINGS = frozenset(["outdoor", "indoor", "sport", "art", "fashion"])
"""Tags that describe the whole photo, which no caption needs to name."""
_MEDIA = frozenset(["drawing", "sketch", "cartoon", "clip-art", "painting"])
"""Tags that a plain caption names in place of "photo"."""
# Names without an article, as far as they are in the vocabulary.
_MASS = frozenset(
    [
        "water",
        "snow",
        "grass",
        "sand",
        "dirt",
        "ice",
        "food",
        "meat",
        "rice",
        "soup",
        "bread",
        "cheese",
        "chocolate",
        "coffee",
        "tea",
        "wine",
        "beer",
        "milk",
        "juice",
        "hair",
        "fur",
        "clothing",
        "furniture",
        "luggage",
        "traffic",
        "money",
        "makeup",
        "graffiti",
        "smoke",
        "fire",
        "fog",
        "rain",
        "mud",
        "paper",
        "cardboard",
        "plastic",
        "metal",
        "text",
        "jewelry",
        "seafood",
        "pasta",
        "sushi",
        "salad",
        "pork",
        "ham",
        "bacon",
        "steak",
        "fast-food",
        "popcorn",
        "cutlery",
        "pottery",
        "art",
        "coral",
        "seaweed",
        "moss",
        "wheat",
        "hay",
        "livestock",
        "footwear",
        "fashion",
        "armor",
        "laundry",
        "produce",
        "butter",
        "honey",
        "fabric",
        "wool",
        "gravel",
        "pavement",
        "lavender",
        "soccer",
        "tennis",
        "baseball",
        "basketball",
        "football",
        "volleyball",
        "hockey",
        "golf",
        "rugby",
        "cricket",
        "swimming",
        "wrestling",
        "boxing",
        "fencing",
        "gymnastics",
        "badminton",
        "archery",
        "chess",
        "athletics",
        "yoga",
        "rowing",
        "sailing",
        "diving",
        "racing",
        "shooting",
        "weightlifting",
        "table-tennis",
        "martial-arts",
        "horse-racing",
        "motorcycle-racing",
        "outdoor",
        "indoor",
        "sport",
        "sky",
        "darkness",
        "dance",
        "ballet",
        "space",
        "underwater",
        "broccoli",
        "spaghetti",
    ]
)


_WORD = re.compile(r"[a-z]{4,}")


class CaptionChecker:
    """Compares captions with the scores of a photo's tags.

    Args:
        vocabulary: of the tags.
        parser: extracts tags from captions, with that vocabulary.
        is_whole: whether the caption head has a word as a whole, and does not spell it in pieces.
    """

    def __init__(self, vocabulary: Vocabulary, parser: Parser, is_whole: Callable[[str], bool]) -> None:
        self._vocabulary, self._parser, self._is_whole = vocabulary, parser, is_whole

    def mentioned(self, text: str) -> dict[str, str]:
        """Objects and scenes that a caption mentions: tag id -> name."""
        tags = (self._vocabulary.find(tag.name) for tag in self._parser.parse(text) if tag.kind in NOUN_KINDS)
        return {tag.id: tag.name for tag in tags if tag is not None}

    def max_repeats(self, text: str) -> int:
        """How often a caption mentions its most frequent object or scene; a sign of hallucination."""
        tags = (self._vocabulary.find(word) for word in text.split(" "))
        return max(Counter(tag.id for tag in tags if tag and tag.kind in NOUN_KINDS).values(), default=0)

    def neutralise(self, text: str, scores: Mapping[str, float]) -> str:
        """Use "person" or "child" where gender or age score less than `MIN_PERSON_SCORE`."""
        words = text.split(" ")
        for number in range(len(words)):
            while words[number] in NEUTRAL_WORDS and scores.get(words[number], 0.0) < MIN_PERSON_SCORE:
                words[number] = NEUTRAL_WORDS[words[number]]
        return " ".join(words)

    def unsupported(self, text: str, scores: Mapping[str, float], minimum: float) -> list[str]:
        """Names of objects and scenes in a caption whose tags score less than `minimum`."""
        return [name for id, name in self.mentioned(text).items() if scores.get(id, 0.0) < minimum]

    def misspelled(self, text: str) -> list[str]:
        """Words that are spelled in pieces and that neither the vocabulary nor the parser knows."""
        return [word for word in _WORD.findall(text) if not self._is_whole(word) and not self._knows(word)]

    def _knows(self, word: str) -> bool:
        lexicon = self._parser.lexicon
        forms = lexicon.inflection.noun(word), lexicon.inflection.verb(word), lexicon.kind(word)
        return any(form is not None for form in forms) or word in self._name_words

    @cached_property
    def _name_words(self) -> frozenset[str]:
        names = (name for tag in self._vocabulary for name in (tag.name, *tag.synonyms))
        return frozenset(word for name in names for word in _WORD.findall(name.lower()))

    def mentions(self, text: str, id: str) -> bool:
        """Whether a caption mentions a tag, a broader one or a narrower one."""
        mentioned = self.mentioned(text)
        return id in mentioned or any(
            id in self._broader(one) or one in self._broader(id) for one in mentioned
        )

    def confident(self, tags: Sequence[TagScore], minimum: float) -> list[TagScore]:
        """Select the first few confident objects and scenes, none of which are related in the hierarchy.

        `tags` are in descending order of score. A narrow tag that does not score very high is replaced by its
        parent, unless that is too generic.
        """
        candidates = [
            tag
            for tag in tags
            if tag.score >= minimum and self._kind(tag) in NOUN_KINDS and tag.id not in _SETTINGS
        ]
        by_id = {tag.id: tag for tag in candidates}
        broader = {id for tag in candidates for id in self._broader(tag.id)}
        result: list[TagScore] = []
        for tag in candidates:
            related = {tag.id, *self._broader(tag.id)}
            if tag.id in broader or any(related & {one.id, *self._broader(one.id)} for one in result):
                continue
            parents = [id for id in self._parents(tag.id) if id in by_id and self._narrower[id] < GENERIC]
            result.append(by_id[parents[0]] if parents and tag.score < HIGH_SCORE else tag)
        specific = [tag for tag in result if self._narrower[tag.id] < GENERIC]
        return (specific or result[:1])[:MAX_TAGS]

    def plain(self, tags: Sequence[TagScore], excluded: Collection[str] = ()) -> str:
        """Compose a plain caption: "a photo of a cup and a table", "a drawing of a dog", or `EMPTY`.

        Args:
            tags: that it names.
            excluded: words that it must not contain: with "photo" it is "a cup and a table".
        """
        medium = next((_with_article(tag.name) for tag in tags if tag.id in _MEDIA), EMPTY)
        names = [_with_article(tag.name) for tag in tags if tag.id not in _MEDIA]
        if any(word in excluded for word in medium.split()):
            medium = ""
        *rest, last = names or [""]
        listed = f"{', '.join(rest)} and {last}" if rest else last
        return " of ".join(filter(None, (medium, listed)))

    def _kind(self, tag: TagScore) -> str | None:
        known = self._vocabulary.find(tag.id) or self._vocabulary.find(tag.name)
        return None if known is None else known.kind

    def _parents(self, id: str) -> tuple[str, ...]:
        return self._vocabulary[self._vocabulary.index(id)].parents

    @cached_property
    def _narrower(self) -> Counter[str]:
        """Number of narrower tags of each tag."""
        broader = (number for numbers in self._vocabulary.broader for number in numbers)
        return Counter(self._vocabulary[number].id for number in broader)

    def _broader(self, id: str) -> frozenset[str]:
        number = self._vocabulary.index(id)
        return frozenset(self._vocabulary[broader].id for broader in self._vocabulary.broader[number])


def _with_article(name: str) -> str:
    word = name.split(" ")[-1].lower()
    plural = word.endswith("s") and not word.endswith(("ss", "us", "is", "lens", "gas", "canvas", "atlas"))
    if plural or word in _MASS or name.lower().replace(" ", "-") in _MASS:
        return name
    return f"an {name}" if name[0].lower() in "aeiou" else f"a {name}"
