"""Extract tags from captions with spaCy: a trained pipeline resolves ambiguous words, the scan is the same.

For the lexicon alone "saw" may be a tool or a verb; a part-of-speech tagger decides by the sentence. Names,
synonyms, kinds, negation and quotations are as in `Parser`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from anytag.errors import MissingExtraError
from anytag.parsing.grammar import Word
from anytag.parsing.lexicon import Lexicon
from anytag.parsing.parser import Matches, ParsedTag, Parser, unquoted_words
from anytag.parsing.tables import NamedTag

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc, Token

MODEL = "en_core_web_sm"


class SpacyParser(Parser):
    """Extracts tags from captions with a spaCy pipeline for English.

    Args:
        pipeline: a loaded pipeline with a tagger; by default `load_english()`.
        lexicon, vocabulary, discover: as for `Parser`.

    Raises:
        MissingExtraError: spaCy or its English model is not installed.
    """

    def __init__(
        self,
        pipeline: Language | None = None,
        *,
        lexicon: Lexicon | None = None,
        vocabulary: Iterable[NamedTag] | None = None,
        discover: bool = False,
    ) -> None:
        super().__init__(lexicon, vocabulary=vocabulary, discover=discover)
        self._pipeline = pipeline if pipeline is not None else load_english()

    def parse(self, caption: str) -> tuple[ParsedTag, ...]:
        """As for `Parser.parse`."""
        return self.read(self._pipeline(caption))

    def parse_many(
        self, captions: Iterable[str], *, batch_size: int = 256
    ) -> Iterator[tuple[ParsedTag, ...]]:
        """As for `parse`, for a stream of captions; several times faster."""
        return (self.read(doc) for doc in self._pipeline.pipe(captions, batch_size=batch_size))

    def read(self, doc: Doc) -> tuple[ParsedTag, ...]:
        """Extract the tags of a text that a pipeline has already processed."""
        matches = unquoted_words(doc.text)
        return self._walk(doc.text, matches, list(self._disambiguated(doc, matches)))

    def _disambiguated(self, doc: Doc, matches: Matches) -> Iterator[Word]:
        starts = [token.idx for token in doc]
        for match in matches:
            token = doc[bisect_right(starts, match.start()) - 1]
            yield disambiguated(self._word(match.group()), token)


def disambiguated(word: Word, token: Token) -> Word:
    """A word with only the readings of its part of speech; unchanged if the lexicon has none of these."""
    if token.pos_ in ("NOUN", "PROPN") and word.noun is not None:
        return replace(word, verb=None, form=None)
    if token.pos_ == "VERB" and word.verb is not None:
        return replace(word, noun=None, stop=False)
    if token.pos_ == "ADJ" and word.attribute:
        return replace(word, noun=None, verb=None, form=None)
    return word


def load_english(name: str = MODEL) -> Language:
    """Load spaCy's English pipeline, without unused components.

    Raises:
        MissingExtraError: spaCy or this model is not installed.
    """
    try:
        import spacy

        return spacy.load(name, exclude=["ner", "parser", "lemmatizer"])
    except (ImportError, OSError) as error:
        raise MissingExtraError(
            f"reading captions with spaCy (and python -m spacy download {name})", "spacy"
        ) from error
