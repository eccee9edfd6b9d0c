"""Extract tags from captions, and a vocabulary from a corpus, in pure Python without a model."""

from anytag.parsing.build import Candidate, build_vocabulary
from anytag.parsing.lexicon import Kind, Lexicon, default_lexicon, slug
from anytag.parsing.parser import CaptionParser, ParsedTag, Parser

__all__ = [
    "Candidate",
    "CaptionParser",
    "Kind",
    "Lexicon",
    "ParsedTag",
    "Parser",
    "build_vocabulary",
    "default_lexicon",
    "slug",
]
