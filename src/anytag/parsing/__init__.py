"""Captions -> tags, and a corpus of captions -> a vocabulary. Pure Python: no model, no download."""

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
