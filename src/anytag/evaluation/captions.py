"""BLEU, CIDEr and METEOR of captions, by libraries that papers use (extra `eval`; no Java, no downloads)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from anytag.errors import AnytagError, MissingExtraError

# As the Penn Treebank cuts words, which COCO's own evaluation does: "don't" is "do" and "n't".
_CLITIC = re.compile(r"(?<=\w)(n't|'(?:s|re|ve|ll|d|m))\b")
_WORD = re.compile(r"n't\b|'(?:s|re|ve|ll|d|m)\b|\w+(?:[-/.&]\w+)*")


def words(caption: str) -> list[str]:
    """Lower-cased words without punctuation: "A dog's ball." -> a, dog, 's, ball."""
    return _WORD.findall(_CLITIC.sub(r" \1", caption.lower().replace("’", "'")))


def caption_metrics(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Scores of one caption for each photo, over the whole set, times 100 as papers print them.

    Args:
        hypotheses: N captions.
        references: N lists of one or more captions that people wrote.

    Returns:
        "BLEU-1" to "BLEU-4" (Papineni et al. 2002; over the corpus, with the closest reference length);
        "CIDEr" (CIDEr-D of Vedantam et al. 2015; up to 1000; a word weighs more the fewer photos mention it);
        "METEOR" (Banerjee and Lavie 2005: words and stems, without synonyms, which need WordNet's data; the
        METEOR of COCO's server is a later one, and not comparable).

    Raises:
        AnytagError: the lengths differ, or a photo has no reference.
        MissingExtraError: the extra `eval` is not installed.
    """
    if len(hypotheses) != len(references) or not hypotheses:
        raise AnytagError(
            f"{len(hypotheses)} captions for {len(references)} lists of references: expected one for each"
        )
    if missing := [number for number, texts in enumerate(references) if not texts]:
        raise AnytagError(f"photo {missing[0]} (counted from 0) has no reference caption; leave it out")
    ours = [words(text) for text in hypotheses]
    theirs = [[words(text) for text in texts] for texts in references]
    return {**_coco(ours, theirs), "METEOR": _meteor(ours, theirs)}


def _library(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError("BLEU, CIDEr and METEOR", "eval") from error


def _coco(ours: list[list[str]], theirs: list[list[list[str]]]) -> dict[str, float]:
    """BLEU and CIDEr of COCO's evaluation code, which takes words joined by spaces."""
    hypotheses = {number: [" ".join(text)] for number, text in enumerate(ours)}
    references = {number: [" ".join(text) for text in texts] for number, texts in enumerate(theirs)}
    bleu, _ = _library("pycocoevalcap.bleu.bleu").Bleu(4).compute_score(references, hypotheses, verbose=0)
    cider, _ = _library("pycocoevalcap.cider.cider").Cider().compute_score(references, hypotheses)
    return {f"BLEU-{n}": 100 * float(value) for n, value in enumerate(bleu, 1)} | {
        "CIDEr": 100 * float(cider)
    }


class _NoSynonyms:
    """Stands where nltk expects WordNet."""

    def synsets(self, _word: str) -> list[Any]:
        return []


def _meteor(ours: list[list[str]], theirs: list[list[list[str]]]) -> float:
    """Mean over photos of METEOR with the best reference."""
    score = _library("nltk.translate.meteor_score").meteor_score
    nothing = _NoSynonyms()
    scores = [float(score(t, o, wordnet=nothing)) for o, t in zip(ours, theirs, strict=True)]
    return 100 * sum(scores) / len(scores)
