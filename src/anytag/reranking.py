"""Pair scorers of text and photo: the tag decoder, or alignment heads where the model has them.

Vectors shortlist pairs (bi-encoder); the scorer re-ranks them (cross-encoder)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from anytag._typing import Floats, Ints
from anytag.errors import ModelError, VocabularyError
from anytag.models.card import CaptionSpec, Card, Platt
from anytag.models.folder import ModelFolder
from anytag.queries.requests import in_english
from anytag.runtime.base import Matcher
from anytag.tagger import Encoded, Tagger
from anytag.text_encoders.captions import clean_caption
from anytag.text_encoders.wordpiece import WordPieces


@dataclass(frozen=True, eq=False)
class Texts:
    """M encoded texts.

    Attributes:
        vectors: float32 M×E embeddings, compared with those of the photos.
        rows: input of the cross-encoder: queries float32 M×P×R, or wordpieces int64 M×L.
    """

    vectors: Floats
    rows: npt.NDArray[Any]


class PairScorer(Protocol):
    """Scores how well texts fit photos.

    Attributes:
        widths: D and E, of a photo's tokens and embedding.
        platt: Platt coefficients of its logits.
        has_embeddings: whether dot products of the vectors tell which pairs are likely; if not, all pairs are
            scored.
        rerank_only: whether a pair costs so much that only the likely pairs of a table are scored.
        batch: photos that are scored together.
        weights: hash of the image encoder's weights; embeddings of other weights are refused.
    """

    widths: tuple[int, int]
    platt: Platt
    has_embeddings: bool
    rerank_only: bool
    batch: int
    weights: str

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """The words of a text that the text encoder does not know."""
        ...

    def encode_images(self, photos: Sequence[Encoded]) -> tuple[Floats, Floats]:
        """Tokens N×T×D and embeddings N×E of N photos."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Texts:
        """Raises VocabularyError where a text is empty or has no word that is known."""
        ...

    def score_pairs(self, tokens: Floats, vectors: Floats, texts: Texts, pairs: Ints) -> Floats:
        """Logits P of the pairs P×2 of N photos, as `encode_images` gave them, and M texts."""
        ...


class DecoderPairScorer:
    """The tag decoder with texts as queries (RAM++, section 3.2).

    Only the folded decoder has a first pass: its logits grow with the dot product of query and mean token.
    Those of RAM and RAM++ do not, so there the decoder scores every photo.

    Raises:
        ModelError: the model has no text encoder.
    """

    rerank_only = False
    batch = 32

    def __init__(self, tagger: Tagger) -> None:
        card = tagger.card
        if card.text is None:
            raise ModelError(
                f"{card.name} cannot tell how well a sentence fits: it has no alignment heads and no text "
                "encoder. Take the embedded model, another with a text encoder, or train one with heads: "
                "anytag train tag2text-retrieval"
            )
        self._tagger = tagger
        self.widths = card.width, card.width
        self.platt = card.calibration.own
        self.has_embeddings = has_embeddings(card)
        self.weights = weights_of(card)

    def unknown_words(self, text: str) -> tuple[str, ...]:
        return self._tagger.unknown_in(text)

    def encode_images(self, photos: Sequence[Encoded]) -> tuple[Floats, Floats]:
        return np.stack([one.tokens for one in photos]), np.stack([one.pooled for one in photos])

    def encode_texts(self, texts: Sequence[str]) -> Texts:
        queries = self._tagger.queries(texts)
        return Texts(queries[:, 0], queries)

    def score_pairs(self, tokens: Floats, vectors: Floats, texts: Texts, pairs: Ints) -> Floats:
        logits = self._tagger.runtime.score(tokens, vectors, texts.rows[None])  # N×M
        return logits[pairs[:, 0], pairs[:, 1]]


class AlignmentPairScorer:
    """Alignment heads: a contrastive bi-encoder for all pairs, a matching cross-encoder for the shortlist
    (Tag2Text, section 3.2).

    The tags that the model recognises in a photo guide both, as they guide its caption.
    """

    platt = Platt(1.0, 0.0)
    has_embeddings = rerank_only = True
    batch = 8  # keys and values of 12 layers for each

    def __init__(self, tagger: Tagger, matcher: Matcher, pieces: WordPieces, spec: CaptionSpec) -> None:
        self._tagger, self._matcher, self._pieces, self._spec = tagger, matcher, pieces, spec
        self.widths = tagger.card.width, matcher.space
        self.weights = weights_of(tagger.card)

    def unknown_words(self, text: str) -> tuple[str, ...]:
        return self._unknown_in(self._readable(text))

    def encode_images(self, photos: Sequence[Encoded]) -> tuple[Floats, Floats]:
        guides = [
            [tag.name for tag in self._tagger.score(one).tags if tag.score >= self._spec.guide]
            for one in photos
        ]
        tags = self._pieces.tag_text(guides, length=self._spec.tag_length)
        tokens, pooled = np.stack([one.tokens for one in photos]), np.stack([one.pooled for one in photos])
        return self._matcher.encode_images(tokens, pooled, *tags)

    def encode_texts(self, texts: Sequence[str]) -> Texts:
        """Each as it is in training: cleaned, and cut to 40 wordpieces."""
        cleaned = [clean_caption(self._readable(text)) for text in texts]
        for original, text in zip(texts, cleaned, strict=True):
            if not self._pieces.knows(text):
                raise VocabularyError(
                    f"no word of the text {original!r} is known: expected such as 'a red car'"
                )
        ids = self._pieces.caption_text(cleaned)
        return Texts(self._matcher.encode_texts(ids), ids)

    def _readable(self, text: str) -> str:
        return in_english(text, self._unknown_in(text), self._tagger.vocabulary)

    def _unknown_in(self, text: str) -> tuple[str, ...]:
        """Words of which no wordpiece is known."""
        words = (word.strip(".,;:!?\"'()") for word in text.split())
        return tuple(
            dict.fromkeys(word for word in words if word and not self._pieces.knows(clean_caption(word)))
        )

    def score_pairs(self, tokens: Floats, vectors: Floats, texts: Texts, pairs: Ints) -> Floats:
        return self._matcher.score_pairs(tokens, texts.rows, pairs)


def has_embeddings(card: Card) -> bool:
    """Whether the product of a photo's pooled vector and a text's query tells how well they fit.

    The folded decoder's logits grow with it; those of RAM and RAM++ do not.
    """
    return card.family == "mini" and card.text is not None


def weights_of(card: Card) -> str:
    """One hash of a model's weights and of how it is shown photos; its words and captions play no part."""
    text = f"{card.text.folder}/" if card.text else "text/"
    names = (name for name in card.files if name.endswith((".onnx", ".safetensors", ".data")))
    weight_files = [name for name in sorted(names) if not name.startswith((text, "caption"))]
    facts = [asdict(card.image), [[name, card.files[name].sha256] for name in weight_files]]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def open_pair_scorer(folder: ModelFolder, tagger: Tagger) -> PairScorer:
    """The alignment heads of a folder, else its tag decoder.

    Raises:
        ModelError: the folder has neither heads nor a text encoder, or its heads do not fit its card.
        MissingExtraError: it has heads, and torch is not installed.
    """
    spec = folder.card.captions
    if not folder.card.network.get("alignment") or spec is None:
        return DecoderPairScorer(tagger)
    return AlignmentPairScorer(
        tagger, tagger.runtime.matcher(), WordPieces.from_file(folder.file(spec.wordpieces)), spec
    )
