"""BLEU, CIDEr and METEOR of captions, by the usual libraries (extra `eval`; without Java or downloads)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from anytag._optional import needs
from anytag.errors import AnytagError

Tokens = list[list[str]]

_WHAT = "BLEU, CIDEr and METEOR"
MAX_SCORE = {"CIDEr": 1000.0, "METEOR": 100.0}
"""The maximum score of a caption."""

# Penn Treebank tokenisation, as in COCO's evaluation: "don't" is "do" and "n't".
_CLITIC = re.compile(r"(?<=\w)(n't|'(?:s|re|ve|ll|d|m))\b")
_WORD = re.compile(r"n't\b|'(?:s|re|ve|ll|d|m)\b|\w+(?:[-/.&]\w+)*")


def words(caption: str) -> list[str]:
    """Tokenise to lower-case words without punctuation: "A dog's ball." -> a, dog, 's, ball."""
    return _WORD.findall(_CLITIC.sub(r" \1", caption.lower().replace("’", "'")))


def caption_metrics(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Score one caption per photo, over the whole set, times 100 as in papers.

    Args:
        hypotheses: N captions.
        references: N lists of one or more reference captions.

    Returns:
        "BLEU-1" to "BLEU-4" (Papineni et al. 2002; over the corpus, with the closest reference length);
        "CIDEr" (CIDEr-D of Vedantam et al. 2015; up to 1000; rare words have larger weights);
        "METEOR" (Banerjee and Lavie 2005: words and stems, without synonyms, which need WordNet's data;
        COCO's server uses a later version of METEOR, which is not comparable).

    Raises:
        AnytagError: the lengths differ, or a photo has no reference.
        MissingExtraError: the extra `eval` is not installed.
    """
    return caption_scores(hypotheses, references)[0]


def caption_scores(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Return `caption_metrics`, and CIDEr and METEOR of each photo; errors as there."""
    if len(hypotheses) != len(references) or not hypotheses:
        raise AnytagError(
            f"{len(hypotheses)} captions for {len(references)} lists of references: expected equal numbers"
        )
    if missing := [number for number, texts in enumerate(references) if not texts]:
        raise AnytagError(f"photo {missing[0]} (counted from 0) has no reference caption; leave it out")
    ours = [words(text) for text in hypotheses]
    reference_words = [[words(text) for text in texts] for texts in references]
    each = {"CIDEr": _cider(ours, reference_words), "METEOR": _meteor(ours, reference_words)}
    return _bleu(ours, reference_words) | {
        name: sum(scores) / len(scores) for name, scores in each.items()
    }, each


def _joined(
    ours: Tokens, reference_tokens: list[Tokens]
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """Convert to the format of COCO's evaluation code: references and captions by photo, as texts."""
    references = {number: [" ".join(text) for text in texts] for number, texts in enumerate(reference_tokens)}
    return references, {number: [" ".join(text)] for number, text in enumerate(ours)}


def _bleu(ours: Tokens, references: list[Tokens]) -> dict[str, float]:
    with needs(_WHAT):
        from pycocoevalcap.bleu.bleu import Bleu
    values, _ = Bleu(4).compute_score(*_joined(ours, references), verbose=0)
    return {f"BLEU-{n}": 100 * float(value) for n, value in enumerate(values, 1)}


def _cider(ours: Tokens, references: list[Tokens]) -> list[float]:
    with needs(_WHAT):
        from pycocoevalcap.cider.cider import Cider
    _, each = Cider().compute_score(*_joined(ours, references))
    return [100 * float(value) for value in each]


class _NoSynonyms:
    """Replaces WordNet for nltk."""

    def synsets(self, _word: str) -> list[object]:
        return []


def _meteor(ours: Tokens, references: list[Tokens]) -> list[float]:
    """METEOR of each photo, with its best reference."""
    with needs(_WHAT):
        from nltk.translate.meteor_score import meteor_score
    nothing = _NoSynonyms()
    return [
        100 * float(meteor_score(texts, own, wordnet=nothing))
        for own, texts in zip(ours, references, strict=True)
    ]
