"""Is a caption borne out by the photo's tags? And what to say where it is not: plain words, from the tags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property

from anytag.parsing import Parser
from anytag.results import TagScore
from anytag.vocabulary import Vocabulary

THINGS = ("object", "scene")
LESS = {"man": "person", "woman": "person", "boy": "child", "girl": "child", "child": "person"}
"""What to say instead of words of sex and age that are not sure."""
GUESS = 0.3
"""From this score on a caption may say a sex or an age."""
MOST = 3
"""Tags that guide a caption, or that plain words name."""
VERY_SURE, VAGUE = 0.9, 60
"""A tag below this score gives way to the one above it, if that has fewer narrower ones than this."""
# Words without an article, as far as the vocabulary has them.
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


class Support:
    """Compares captions with what the tags of a photo say.

    Args:
        vocabulary: of the tags.
        parser: reads captions with that vocabulary.
    """

    def __init__(self, vocabulary: Vocabulary, parser: Parser) -> None:
        self._vocabulary, self._parser = vocabulary, parser

    def things(self, text: str) -> dict[str, str]:
        """The things and places that a caption names: tag id -> name."""
        tags = (self._vocabulary.find(tag.name) for tag in self._parser.parse(text) if tag.kind in THINGS)
        return {tag.id: tag.name for tag in tags if tag is not None}

    def repeats(self, text: str) -> int:
        """How often a caption names the thing that it names most: often is a sign that it is made up."""
        tags = (self._vocabulary.find(word) for word in text.split(" "))
        return max(Counter(tag.id for tag in tags if tag and tag.kind in THINGS).values(), default=0)

    def without_guesses(self, text: str, scores: Mapping[str, float]) -> str:
        """The caption with "person" or "child" where sex or age score less than `GUESS`."""
        words = text.split(" ")
        for number in range(len(words)):
            while words[number] in LESS and scores.get(words[number], 0.0) < GUESS:
                words[number] = LESS[words[number]]
        return " ".join(words)

    def unsupported(self, text: str, scores: Mapping[str, float], least: float) -> list[str]:
        """Names of things in a caption whose tags score less than `least`."""
        return [name for key, name in self.things(text).items() if scores.get(key, 0.0) < least]

    def names(self, text: str, key: str) -> bool:
        """Whether a caption names a tag, one that is broader, or one that it includes."""
        mentioned = self.things(text)
        return key in mentioned or any(key in self._above(k) or k in self._above(key) for k in mentioned)

    def sure(self, tags: Sequence[TagScore], least: float) -> list[TagScore]:
        """Of tags by falling score the first few things that are sure: none broader than another or akin.

        Of a narrow tag that is not very sure the tag above it is taken, unless that says almost nothing.
        """
        things = [tag for tag in tags if tag.score >= least and self._kind(tag) in THINGS]
        by_id = {tag.id: tag for tag in things}
        above = {key for tag in things for key in self._above(tag.id)}
        result: list[TagScore] = []
        for tag in things:
            kin = {tag.id, *self._above(tag.id)}
            if tag.id in above or any(kin & {one.id, *self._above(one.id)} for one in result):
                continue
            better = [key for key in self._nearest(tag.id) if key in by_id and self._narrower[key] < VAGUE]
            result.append(by_id[better[0]] if better and tag.score < VERY_SURE else tag)
        telling = [tag for tag in result if self._narrower[tag.id] < VAGUE]
        return (telling or result[:1])[:MOST]

    def plain(self, tags: Sequence[TagScore]) -> str:
        """ "a photo of a cup and a table"; "a photo" of no tags."""
        names = [_with_article(tag.name) for tag in tags]
        if not names:
            return "a photo"
        *rest, last = names
        return f"a photo of {', '.join(rest)} and {last}" if rest else f"a photo of {last}"

    def _kind(self, tag: TagScore) -> str | None:
        known = self._vocabulary.find(tag.id) or self._vocabulary.find(tag.name)
        return None if known is None else known.kind

    def _nearest(self, key: str) -> tuple[str, ...]:
        return self._vocabulary[self._vocabulary.index(key)].parents

    @cached_property
    def _narrower(self) -> Counter[str]:
        broader = (number for numbers in self._vocabulary.broader for number in numbers)
        return Counter(self._vocabulary[number].id for number in broader)

    def _above(self, key: str) -> frozenset[str]:
        number = self._vocabulary.index(key)
        return frozenset(self._vocabulary[broader].id for broader in self._vocabulary.broader[number])


def _with_article(name: str) -> str:
    word = name.split(" ")[-1].lower()
    plural = word.endswith("s") and not word.endswith(("ss", "us", "is", "lens", "gas", "canvas", "atlas"))
    if plural or word in _MASS or name.lower().replace(" ", "-") in _MASS:
        return name
    return f"an {name}" if name[0].lower() in "aeiou" else f"a {name}"
