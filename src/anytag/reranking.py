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

_Given = Mapping[str | None, tuple[Ints, Floats]]  # of tags by id: which photos got it, and their scores
_MOST_TAGS = 64  # of a photo: of 1,000 photos none gets more than 16 with the embedded model
_NONE = np.zeros(0, np.int64), np.zeros(0, np.float32)


@dataclass(frozen=True, eq=False)
class Texts:
    """M encoded texts.

    Attributes:
        vectors: float32 M×E embeddings, compared with those of the photos; of fused sentences all their
            columns, C×(E+1).
        rows: input of the cross-encoder: queries float32 M×P×R, wordpieces int64 M×L, or M sentences.
    """

    vectors: Floats
    rows: Any


class PairScorer(Protocol):
    """Scores how well texts fit photos.

    Attributes:
        layouts: what galleries keep of photos for it.
        platt: Platt coefficients of its logits.
        calibrated: whether the score is the probability that a text fits, so that below one half it does not.
        has_embeddings: whether vectors tell which pairs are likely; if not, all pairs are scored.
        rerank_only: whether a pair costs so much that only the likely pairs of a table are scored.
        shortlist: photos that are scored for a text by default, of all whose vectors tell.
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
        """The words of a text that the text encoder does not know."""
        ...

    def encode_images(self, photos: Sequence[Encoded]) -> tuple[Floats, Floats]:
        """Tokens N×T×D and embeddings N×E of N photos."""
        ...

    def keep(self, tokens: Floats, vectors: Floats, layout: Layout) -> npt.NDArray[np.floating]:
        """What a gallery of a layout keeps of N photos beside their embeddings."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Texts:
        """Raises VocabularyError where a text is empty or has no word that is known."""
        ...

    def similarities(self, vectors: Floats, texts: Texts) -> Floats:
        """How likely N photos, by their embeddings N×E alone, fit M texts: N×M."""
        ...

    def score_pairs(
        self, seen: npt.NDArray[np.floating], vectors: Floats, texts: Texts, pairs: Ints, layout: Layout
    ) -> Floats:
        """Logits P of the pairs P×2 of N photos, of which `keep` gave `seen`, and M texts."""
        ...


class _Encoded:
    """Photos as the tagger encodes them."""

    def __init__(self, tagger: Tagger) -> None:
        card = tagger.card
        if card.text is None:
            raise ModelError(
                f"{card.name} cannot tell how well a sentence fits: it has no alignment heads and no text "
                "encoder. Take the embedded model, another with a text encoder, or train one with heads: "
                "anytag train tag2text-retrieval"
            )
        self._tagger = tagger
        self.layouts: Layouts = {Layout("tokens", card.width, card.width): weights_of(card)}

    def unknown_words(self, text: str) -> tuple[str, ...]:
        return self._tagger.unknown_in(text)

    def encode_images(self, photos: Sequence[Encoded]) -> tuple[Floats, Floats]:
        return np.stack([one.tokens for one in photos]), np.stack([one.pooled for one in photos])

    def keep(self, tokens: Floats, vectors: Floats, layout: Layout) -> npt.NDArray[np.floating]:
        return tokens.astype(np.float16)


class FusedPairScorer(_Encoded):
    """Sentences by their vectors and by the tags that they name: see `anytag.fusion`.

    Photos are tagged as `Tagger.tag` tags them, so a photo scores as it does in a library, and its tags are
    all that a gallery keeps beside its vector. Those of older galleries are tagged when they are likely.
    """

    platt = Platt(1.0, 0.0)
    rerank_only = False
    calibrated = has_embeddings = True
    shortlist = batch = 64

    def __init__(self, tagger: Tagger) -> None:
        super().__init__(tagger)
        self._reader = SentenceReader(tagger.questions)
        self.layouts = {Layout("tags", 2, tagger.card.width): _hash_of_tags(tagger), **self.layouts}

    def keep(self, tokens: Floats, vectors: Floats, layout: Layout) -> npt.NDArray[np.floating]:
        """The tags that photos get by default, N×64×2: the surest where there are more."""
        halves = super().keep(tokens, vectors, layout)
        if layout.kind == "tokens":
            return halves
        # from halves, as those of older galleries, so that all say the same
        seen = zip(halves.astype(np.float32), vectors, strict=True)
        photos = [Encoded(*arrays, None, 0, 0) for arrays in seen]
        found = np.full((len(photos), _MOST_TAGS, 2), -1, np.float32)
        for row, result in zip(found, self._tagger.score_many(photos), strict=True):
            tags = [(self._tagger.vocabulary.index(tag.id), tag.score) for tag in result.tags[:_MOST_TAGS]]
            row[: len(tags)] = np.array(tags, np.float32).reshape(-1, 2)
        return found

    def encode_texts(self, texts: Sequence[str]) -> Texts:
        sentences = [self._reader.read(text) for text in texts]
        for text, sentence in zip(texts, sentences, strict=True):
            if sentence.query is None:
                self._tagger.queries([text])  # raises what the text encoder says of it
        columns = [column for sentence in sentences for column in sentence.columns]
        width = self._tagger.card.width + 1
        return Texts(np.array(columns, np.float32).reshape(-1, width), sentences)

    def similarities(self, vectors: Floats, texts: Texts) -> Floats:
        return self._log_odds(vectors, texts, None)

    def score_pairs(
        self, seen: npt.NDArray[np.floating], vectors: Floats, texts: Texts, pairs: Ints, layout: Layout
    ) -> Floats:
        if layout.kind == "tokens":
            seen = self.keep(np.asarray(seen, np.float32), vectors, next(iter(self.layouts)))
        return self._log_odds(vectors, texts, self._given(seen))[pairs[:, 0], pairs[:, 1]]

    def _log_odds(self, vectors: Floats, texts: Texts, given: _Given | None) -> Floats:
        """By vectors alone, or by the tags that photos got, too: N×M."""
        said = at_once(vectors, texts.vectors)
        odds, start = np.empty((len(vectors), len(texts.rows)), np.float32), 0
        for number, sentence in enumerate(texts.rows):
            end = start + len(sentence.columns)
            known = evidence(sentence, said[:, start:end])
            if given is not None:
                known.terms = [
                    one if one is None else decoded(one, term, *given.get(term.tag, _NONE))
                    for term, one in zip(sentence.terms, known.terms, strict=True)
                ]
            odds[:, number], start = fused(known, self._reader.fit)[0], end
        return odds

    def _given(self, seen: npt.NDArray[np.floating]) -> _Given:
        """The tags of N photos, N×T×2 as `keep` gives them."""
        photos, ranks = np.nonzero(seen[:, :, 0] >= 0)
        numbers, scores = seen[photos, ranks].T
        return {
            self._tagger.vocabulary[int(number)].id: (photos[numbers == number], scores[numbers == number])
            for number in np.unique(numbers)
        }


class DecoderPairScorer(_Encoded):
    """The tag decoder with texts as queries (RAM++, section 3.2), for models without numbers of `SearchFit`.

    Vectors choose who is asked, where they tell anything.

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
        self, seen: npt.NDArray[np.floating], vectors: Floats, texts: Texts, pairs: Ints, layout: Layout
    ) -> Floats:
        logits = self._tagger.runtime.score(seen.astype(np.float32), vectors, texts.rows[None])  # N×M
        return logits[pairs[:, 0], pairs[:, 1]]


class AlignmentPairScorer:
    """Alignment heads: a contrastive bi-encoder for all pairs, a matching cross-encoder for the shortlist
    (Tag2Text, section 3.2).

    The tags that the model recognises in a photo guide both, as they guide its caption.
    """

    platt = Platt(1.0, 0.0)
    calibrated = False
    has_embeddings = rerank_only = True
    shortlist = 256  # as ALBEF does on COCO
    batch = 8  # keys and values of 12 layers for each

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

    def keep(self, tokens: Floats, vectors: Floats, layout: Layout) -> npt.NDArray[np.floating]:
        return tokens.astype(np.float16)

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

    def similarities(self, vectors: Floats, texts: Texts) -> Floats:
        return np.asarray(vectors @ texts.vectors.T)

    def score_pairs(
        self, seen: npt.NDArray[np.floating], vectors: Floats, texts: Texts, pairs: Ints, layout: Layout
    ) -> Floats:
        return self._matcher.score_pairs(seen.astype(np.float32), texts.rows, pairs)


def weights_of(card: Card) -> str:
    """One hash of a model's weights and of how it is shown photos; its words and captions play no part."""
    text = f"{card.text.folder}/" if card.text else "text/"
    names = (name for name in card.files if name.endswith((".onnx", ".safetensors", ".data")))
    weight_files = [name for name in sorted(names) if not name.startswith((text, "caption"))]
    facts = [asdict(card.image), [[name, card.files[name].sha256] for name in weight_files]]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _hash_of_tags(tagger: Tagger) -> str:
    """One hash of all that the tags of a photo follow from."""
    card, tags = tagger.card, [tag.to_dict() for tag in tagger.vocabulary]
    facts = [weights_of(card), asdict(card.calibration), card.shortlist, card.strict, tags]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def open_pair_scorer(folder: ModelFolder, tagger: Tagger) -> PairScorer:
    """The alignment heads of a folder, else what its vectors and tags tell, else its tag decoder.

    Raises:
        ModelError: the folder has neither heads nor a text encoder, or its heads do not fit its card.
        MissingExtraError: it has heads, and torch is not installed.
    """
    spec = folder.card.captions
    if not folder.card.network.get("alignment") or spec is None:
        return text_pair_scorer(tagger)
    return AlignmentPairScorer(
        tagger, tagger.runtime.matcher(), WordPieces.from_file(folder.file(spec.wordpieces)), spec
    )


def text_pair_scorer(tagger: Tagger) -> PairScorer:
    """Of a model without alignment heads; raises ModelError where it has no text encoder."""
    is_fitted = has_embeddings(tagger.card) and tagger.card.search is not None
    return FusedPairScorer(tagger) if is_fitted else DecoderPairScorer(tagger)
