"""Pair scorers of text and photo: vectors fused with tags, the tag decoder, or alignment heads.

Vectors shortlist pairs (bi-encoder); the scorer re-ranks them (cross-encoder)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from anytag._typing import Floats, Ints
from anytag.errors import ModelError, VocabularyError
from anytag.fusion.compare import at_once
from anytag.fusion.score import decoded, evidence, fused
from anytag.fusion.sentences import SentenceReader, has_embeddings
from anytag.models.card import CaptionSpec, Card, Platt
from anytag.models.folder import ModelFolder
from anytag.queries.requests import in_english
from anytag.records import Layout, Layouts
from anytag.runtime.base import Matcher
from anytag.tagger import Encoded, Tagger
from anytag.text_encoders.captions import clean_caption
from anytag.text_encoders.wordpiece import WordPieces

_TagScores = Mapping[str | None, tuple[Ints, Floats]]  # tag id -> indices of photos with the tag, and scores
_MAX_TAGS = 64  # per photo: with the embedded model none of 1,000 photos has more than 16
_NO_SCORES = np.zeros(0, np.int64), np.zeros(0, np.float32)


@dataclass(frozen=True, eq=False)
class Texts:
    """M encoded texts.

    Attributes:
        vectors: float32 M×E embeddings, compared with those of the photos; for fused sentences all their
            columns, C×(E+1).
        rows: input of the cross-encoder: queries float32 M×P×R, wordpieces int64 M×L, or M sentences.
    """

    vectors: Floats
    rows: Any


class PairScorer(Protocol):
    """Scores how well texts match photos.

    Attributes:
        layouts: what galleries store for it.
        platt: Platt coefficients of its logits.
        calibrated: whether the score is the probability that a text matches.
        has_embeddings: whether embeddings can shortlist pairs; if not, all pairs are scored.
        rerank_only: whether pairs are so expensive that only the shortlist of a table is scored.
        shortlist: default number of photos that are scored per text, where embeddings can shortlist.
        batch: photos that are scored together.
    """

    layouts: Layouts
    platt: Platt
    calibrated: bool
    has_embeddings: bool
    rerank_only: bool
    shortlist: int
    batch: int

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """Words of a text that the text encoder does not know."""
        ...

    def encode_images(self, photos: Sequence[Encoded]) -> tuple[Floats, Floats]:
        """Tokens N×T×D and embeddings N×E of N photos."""
        ...

    def to_records(self, tokens: Floats, vectors: Floats, layout: Layout) -> npt.NDArray[np.floating]:
        """What a gallery of a layout stores of N photos besides their embeddings."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Texts:
        """Raises VocabularyError if a text is empty or has no known word."""
        ...

    def similarities(self, vectors: Floats, texts: Texts) -> Floats:
        """How likely N photos match M texts according to their embeddings N×E alone: N×M."""
        ...

    def score_pairs(
        self, records: npt.NDArray[np.floating], vectors: Floats, texts: Texts, pairs: Ints, layout: Layout
    ) -> Floats:
        """Logits P of the pairs P×2 of N photos, given as the `records` of a gallery, and M texts."""
        ...


class _TaggerPairScorer:
    """Base of scorers that use photos as the tagger encodes them."""

    def __init__(self, tagger: Tagger) -> None:
        card = tagger.card
        if card.text is None:
            raise ModelError(
                f"{card.name} cannot score sentences: it has neither alignment heads nor a text encoder. "
                "Use the embedded model, another with a text encoder, or train one with heads: "
                "anytag train tag2text-retrieval"
            )
        self._tagger = tagger
        self.layouts: Layouts = {Layout("tokens", card.width, card.width): weights_of(card)}

    def unknown_words(self, text: str) -> tuple[str, ...]:
        return self._tagger.unknown_in(text)

    def encode_images(self, photos: Sequence[Encoded]) -> tuple[Floats, Floats]:
        return np.stack([one.tokens for one in photos]), np.stack([one.pooled for one in photos])

    def to_records(self, tokens: Floats, vectors: Floats, layout: Layout) -> npt.NDArray[np.floating]:
        return tokens.astype(np.float16)


class FusedPairScorer(_TaggerPairScorer):
    """Scores sentences by their embeddings and by the tags that they name: see `anytag.fusion`.

    Photos are tagged as by `Tagger.tag`, so scores equal those of a library, and galleries store only the
    tags besides the embeddings. For galleries of the older layout, shortlisted photos are tagged at query
    time.
    """

    platt = Platt(1.0, 0.0)
    rerank_only = False
    calibrated = has_embeddings = True
    shortlist = batch = 64

    def __init__(self, tagger: Tagger) -> None:
        super().__init__(tagger)
        self._reader = SentenceReader(tagger.questions)
        self.layouts = {Layout("tags", 2, tagger.card.width): _hash_of_tags(tagger), **self.layouts}

    def to_records(self, tokens: Floats, vectors: Floats, layout: Layout) -> npt.NDArray[np.floating]:
        """The tags of photos at default thresholds, N×64×2; the highest scores where there are more."""
        halves = super().to_records(tokens, vectors, layout)
        if layout.kind == "tokens":
            return halves
        # from float16, as in galleries of the older layout, so that both give the same scores
        arrays = zip(halves.astype(np.float32), vectors, strict=True)
        photos = [Encoded(*pair, None, 0, 0) for pair in arrays]
        records = np.full((len(photos), _MAX_TAGS, 2), -1, np.float32)
        for row, result in zip(records, self._tagger.score_many(photos), strict=True):
            tags = [(self._tagger.vocabulary.index(tag.id), tag.score) for tag in result.tags[:_MAX_TAGS]]
            row[: len(tags)] = np.array(tags, np.float32).reshape(-1, 2)
        return records

    def encode_texts(self, texts: Sequence[str]) -> Texts:
        sentences = [self._reader.read(text) for text in texts]
        for text, sentence in zip(texts, sentences, strict=True):
            if sentence.query is None:
                self._tagger.queries([text])  # raises the text encoder's error
        columns = [column for sentence in sentences for column in sentence.columns]
        width = self._tagger.card.width + 1
        return Texts(np.array(columns, np.float32).reshape(-1, width), sentences)

    def similarities(self, vectors: Floats, texts: Texts) -> Floats:
        return self._log_odds(vectors, texts, None)

    def score_pairs(
        self, records: npt.NDArray[np.floating], vectors: Floats, texts: Texts, pairs: Ints, layout: Layout
    ) -> Floats:
        if layout.kind == "tokens":
            records = self.to_records(np.asarray(records, np.float32), vectors, next(iter(self.layouts)))
        return self._log_odds(vectors, texts, self._tag_scores(records))[pairs[:, 0], pairs[:, 1]]

    def _log_odds(self, vectors: Floats, texts: Texts, tag_scores: _TagScores | None) -> Floats:
        """Log-odds by embeddings, and by the photos' tags if given: N×M."""
        similarity = at_once(vectors, texts.vectors)
        odds, start = np.empty((len(vectors), len(texts.rows)), np.float32), 0
        for number, sentence in enumerate(texts.rows):
            end = start + len(sentence.columns)
            parts = evidence(sentence, similarity[:, start:end])
            if tag_scores is not None:
                parts.terms = [
                    one if one is None else decoded(one, term, *tag_scores.get(term.tag, _NO_SCORES))
                    for term, one in zip(sentence.terms, parts.terms, strict=True)
                ]
            odds[:, number], start = fused(parts, self._reader.fit)[0], end
        return odds

    def _tag_scores(self, records: npt.NDArray[np.floating]) -> _TagScores:
        """The tags of N photos, from N×T×2 as `to_records` returns them."""
        photos, ranks = np.nonzero(records[:, :, 0] >= 0)
        numbers, scores = records[photos, ranks].T
        return {
            self._tagger.vocabulary[int(number)].id: (photos[numbers == number], scores[numbers == number])
            for number in np.unique(numbers)
        }


class DecoderPairScorer(_TaggerPairScorer):
    """Uses texts as queries of the tag decoder (RAM++, section 3.2), for models without a `SearchFit`.

    Embeddings shortlist photos, if they are comparable.

    Raises:
        ModelError: the model has no text encoder.
    """

    rerank_only = calibrated = False
    shortlist = batch = 32

    def __init__(self, tagger: Tagger) -> None:
        super().__init__(tagger)
        self.platt = tagger.card.calibration.own
        self.has_embeddings = has_embeddings(tagger.card)

    def encode_texts(self, texts: Sequence[str]) -> Texts:
        queries = self._tagger.queries(texts)
        return Texts(queries[:, 0], queries)

    def similarities(self, vectors: Floats, texts: Texts) -> Floats:
        if not self.has_embeddings:
            return np.zeros((len(vectors), len(texts.rows)), np.float32)
        return np.asarray(vectors @ texts.vectors.T)

    def score_pairs(
        self, records: npt.NDArray[np.floating], vectors: Floats, texts: Texts, pairs: Ints, layout: Layout
    ) -> Floats:
        logits = self._tagger.runtime.score(records.astype(np.float32), vectors, texts.rows[None])  # N×M
        return logits[pairs[:, 0], pairs[:, 1]]


class AlignmentPairScorer:
    """Alignment heads: a contrastive bi-encoder for all pairs, a matching cross-encoder for the shortlist
    (Tag2Text, section 3.2).

    The tags that the model recognises in a photo guide both, as they guide its caption.
    """

    platt = Platt(1.0, 0.0)
    calibrated = False
    has_embeddings = rerank_only = True
    shortlist = 256  # as in ALBEF on COCO
    batch = 8  # each needs keys and values of 12 layers

    def __init__(self, tagger: Tagger, matcher: Matcher, pieces: WordPieces, spec: CaptionSpec) -> None:
        self._tagger, self._matcher, self._pieces, self._spec = tagger, matcher, pieces, spec
        self.layouts: Layouts = {Layout("tokens", tagger.card.width, matcher.space): weights_of(tagger.card)}

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

    def to_records(self, tokens: Floats, vectors: Floats, layout: Layout) -> npt.NDArray[np.floating]:
        return tokens.astype(np.float16)

    def encode_texts(self, texts: Sequence[str]) -> Texts:
        """Encode texts as in training: cleaned, and truncated to 40 wordpieces."""
        cleaned = [clean_caption(self._readable(text)) for text in texts]
        for original, text in zip(texts, cleaned, strict=True):
            if not self._pieces.knows(text):
                raise VocabularyError(
                    f"no word of the text {original!r} is known: expected a text such as 'a red car'"
                )
        ids = self._pieces.caption_text(cleaned)
        return Texts(self._matcher.encode_texts(ids), ids)

    def _readable(self, text: str) -> str:
        return in_english(text, self._unknown_in(text), self._tagger.vocabulary)

    def _unknown_in(self, text: str) -> tuple[str, ...]:
        """Words without any known wordpiece."""
        words = (word.strip(".,;:!?\"'()") for word in text.split())
        return tuple(
            dict.fromkeys(word for word in words if word and not self._pieces.knows(clean_caption(word)))
        )

    def similarities(self, vectors: Floats, texts: Texts) -> Floats:
        return np.asarray(vectors @ texts.vectors.T)

    def score_pairs(
        self, records: npt.NDArray[np.floating], vectors: Floats, texts: Texts, pairs: Ints, layout: Layout
    ) -> Floats:
        return self._matcher.score_pairs(records.astype(np.float32), texts.rows, pairs)


def weights_of(card: Card) -> str:
    """Hash of a model's weights and image preprocessing, but not of its text encoder and caption head."""
    text = f"{card.text.folder}/" if card.text else "text/"
    names = (name for name in card.files if name.endswith((".onnx", ".safetensors", ".data")))
    weight_files = [name for name in sorted(names) if not name.startswith((text, "caption"))]
    facts = [asdict(card.image), [[name, card.files[name].sha256] for name in weight_files]]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _hash_of_tags(tagger: Tagger) -> str:
    """Hash of everything that determines the tags of a photo."""
    card, tags = tagger.card, [tag.to_dict() for tag in tagger.vocabulary]
    facts = [weights_of(card), asdict(card.calibration), card.shortlist, card.strict, tags]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def open_pair_scorer(folder: ModelFolder, tagger: Tagger) -> PairScorer:
    """Return the best scorer for a folder: alignment heads, else fused scores, else its tag decoder.

    Raises:
        ModelError: the folder has neither heads nor a text encoder, or its heads do not match its card.
        MissingExtraError: it has heads, and torch is not installed.
    """
    spec = folder.card.captions
    if not folder.card.network.get("alignment") or spec is None:
        return text_pair_scorer(tagger)
    return AlignmentPairScorer(
        tagger, tagger.runtime.matcher(), WordPieces.from_file(folder.file(spec.wordpieces)), spec
    )


def text_pair_scorer(tagger: Tagger) -> PairScorer:
    """Return the scorer for a model without alignment heads; raises ModelError if it has no text encoder."""
    is_fitted = has_embeddings(tagger.card) and tagger.card.search is not None
    return FusedPairScorer(tagger) if is_fitted else DecoderPairScorer(tagger)
