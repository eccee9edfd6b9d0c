"""What is asked of photos: tags of the vocabulary and the user's own, made into queries for the decoder.

A `Question` is prepared once and answered for any number of photos. Its tags come in two blocks: those that a
cheap first pass chooses from for each photo, and those that are decoded for every photo.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from anytag.errors import AnytagError, ModelError, VocabularyError
from anytag.models.folder import ModelFolder
from anytag.models.onnx import Rows
from anytag.models.tensors import map_tensors
from anytag.models.text_onnx import open_text_encoder
from anytag.results import Source, TagScore
from anytag.text_encoders import StaticTextEncoder, TextEncoder
from anytag.text_encoders.queries import Prompts, tag_rows
from anytag.vocabulary import OWN, Asked, Vocabulary, parse_asked

Floats = npt.NDArray[np.float32]
Indexes = npt.NDArray[np.int64]
Ask = str | Asked
"""A tag as users ask it: "name", "name: description; description", or the same already parsed."""

OWN_THRESHOLD = 0.5
# Tags decoded in one run, and floats of their queries: bounds memory when thousands are asked.
_PIECE, _PIECE_FLOATS = 256, 1 << 23
_PIECES_ROUNDED = (
    2  # times as many where logits are rounded: what tags share is decoded once for all of a piece
)
_ONE_THREAD = (
    65536 * 4
)  # OpenBLAS starts threads above so many products, which costs 30 times the work itself
# Tags near their thresholds that are decoded exactly in one run, and how many times the largest change that
# they show is far enough: of 128 normal changes the largest is 2.7 standard deviations, so 5 of them.
_SETTLED, _SAFE = 128, 2
_NOTHING: npt.NDArray[Any] = np.zeros(0, np.float32)
_REMEMBERED = 20_000  # own tags whose vectors are kept: 20,000 of 3 rows and 256 floats are 60 MB


class Scorer(Protocol):
    """The half of a runtime that answers questions.

    Attributes:
        keeps_rows: a whole bank of floats may be asked at once, as it is stored, and stays where it is used.
        rounds: logits may differ from the exact ones.
    """

    @property
    def rounds(self) -> bool: ...

    @property
    def keeps_rows(self) -> bool: ...

    def score(self, tokens: Floats, pooled: Floats, queries: Rows, *, exact: bool = False) -> Floats: ...


@dataclass(frozen=True, eq=False)
class Bank:
    """The trained queries of a vocabulary, K tags of up to P descriptions, R wide.

    Attributes:
        rows: K×P×R, memory-mapped: int8, or float16 or float32.
        scale: of int8 rows, float32 K×P; a query is its row times its scale, all zero where a tag has fewer
            than P. None where rows are floats.
        coarse: float32 K×(D+1): weights and bias of the first pass over the pooled image vector; None where
            there is none, so that every tag is decoded.
        line: float32 K×2: slope and offset that each tag's log-odds get after the card's line.
    """

    rows: npt.NDArray[Any]
    scale: Floats | None
    coarse: Floats | None
    line: Floats

    @classmethod
    def read(cls, path: Path, *, tags: int, width: int) -> Bank:
        """The bank in a safetensors file.

        Args:
            path: the file; it stays mapped.
            tags: K.
            width: D.

        Raises:
            ModelError: the file cannot be read, or does not fit.
        """
        found = map_tensors(path)
        rows, scale, coarse = (found.get(name, _NOTHING) for name in ("rows", "scale", "coarse"))
        line = found.get("line", np.tile(np.array([1, 0], np.float32), (tags, 1)))
        is_int8 = rows.dtype == np.int8
        if rows.ndim != 3 or len(rows) != tags or not (is_int8 or rows.dtype in (np.float16, np.float32)):
            wanted = f"rows {tags}×P×R, int8 or float"
        elif is_int8 and scale.shape != rows.shape[:2]:
            wanted = f"scale {rows.shape[0]}×{rows.shape[1]}"
        elif "coarse" in found and coarse.shape != (tags, width + 1):
            wanted = f"coarse {tags}×{width + 1}"
        elif line.shape != (tags, 2):
            wanted = f"line {tags}×2"
        else:
            scale, coarse, line = (part.astype(np.float32) for part in (scale, coarse, line))
            return cls(rows, scale if is_int8 else None, coarse if coarse.size else None, line)
        given = ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in sorted(found.items()))
        raise ModelError(f"{path}: expected {wanted}, got {given}; get the model again")

    def __len__(self) -> int:
        return len(self.rows)

    def queries(self, index: Indexes | slice) -> Floats:
        """float32 index.shape×P×R."""
        rows = self.rows[index]
        if self.scale is not None:
            queries: Floats = np.multiply(rows, self.scale[index][..., None], dtype=np.float32)
            return queries
        return _widened(rows) if rows.dtype == np.float16 else np.asarray(rows, np.float32)

    def nearest(self, pooled: Floats, count: int) -> Indexes:
        """The `count` tags that the first pass finds likeliest: int64 N×count, rows in the bank's order."""
        assert self.coarse is not None
        step = max(1, _ONE_THREAD // pooled.size)
        pieces = [self.coarse[k : k + step] for k in range(0, len(self), step)]
        logits = np.concatenate([pooled @ piece[:, :-1].T + piece[:, -1] for piece in pieces], axis=1)  # N×K
        return np.sort(np.argpartition(-logits, count - 1, axis=1)[:, :count], axis=1)


@dataclass(frozen=True, eq=False)
class Question:
    """K tags asked of every photo: first those of `bank`, if there is one, then those of `queries`.

    Attributes:
        ids, names, sources: K each.
        slope, bias: float64 K; probability = sigmoid(slope · logit + bias).
        below: int64 E×2, pairs of a tag and a broader one: a photo of a tabby is one of a cat, so no broader
            tag scores less than what it includes.
        threshold: float64 K; a lower score is left out.
        bank: its tags are decoded for every photo, or with a `shortlist` only where the first pass puts them
            among the photo's best so many.
        queries: float32 O×P×R, decoded for every photo.
        top_k: how many tags a photo gets at most.
        strict: a score that equals the threshold is left out too.
    """

    ids: tuple[str, ...]
    names: tuple[str, ...]
    sources: tuple[Source, ...]
    slope: npt.NDArray[np.float64]
    bias: npt.NDArray[np.float64]
    threshold: npt.NDArray[np.float64]
    queries: Floats
    below: Indexes
    bank: Bank | None = None
    shortlist: int | None = None
    top_k: int | None = None
    strict: bool = False

    def answer(self, runtime: Scorer, tokens: Floats, pooled: Floats) -> list[tuple[TagScore, ...]]:
        """The tags of each photo, by falling score.

        Args:
            runtime: decodes queries.
            tokens: float32 N×T×D.
            pooled: float32 N×D.
        """
        index, logits = self.logits(runtime, tokens, pooled)  # N×S both
        if runtime.rounds:
            for n in range(len(logits)):
                self._settle(runtime, tokens[n : n + 1], pooled[n : n + 1], places=index[n], logits=logits[n])
        # beyond ±60 a probability is 0 or 1 in every digit that is kept
        line = np.clip(self.slope[index] * logits + self.bias[index], -60, 60)
        scores = np.zeros((len(index), len(self.ids)))  # N×K; what the first pass left out stays 0
        np.put_along_axis(scores, index, 1 / (1 + np.exp(-line)), axis=1)
        np.maximum.at(scores.T, self.below[:, 1], scores.T[self.below[:, 0]])
        return [self._choose(photo) for photo in scores]

    def logits(self, runtime: Scorer, tokens: Floats, pooled: Floats) -> tuple[Indexes, Floats]:
        """Which tags are decoded for each photo, and their logits: N×S both. Arguments as for `answer`."""
        indexes: list[Indexes] = []
        logits: list[Floats] = []
        for index, queries in self._pieces(runtime, pooled):
            indexes.append(np.broadcast_to(index, (len(tokens), index.shape[-1])))
            logits.append(runtime.score(tokens, pooled, queries))
        return np.concatenate(indexes, axis=1), np.concatenate(logits, axis=1)

    def _settle(
        self, runtime: Scorer, tokens: Floats, pooled: Floats, *, places: Indexes, logits: Floats
    ) -> None:
        """Decodes exactly what of one photo may be on the wrong side of its threshold by rounding alone.

        From the thresholds outwards, until what is left is further off than twice the most that rounding has
        changed. Tags do not touch each other in the decoder, so the few that are near can be asked alone.

        Args:
            tokens, pooled: 1×T×D and 1×D.
            places: of the tags that were decoded, S.
            logits: S, changed in place.
        """
        distance = np.abs(logits - self.limits[places])
        order = np.argsort(distance)[: np.isfinite(distance).sum()]
        changed = 0.0
        for start in range(0, len(order), _SETTLED):
            near = order[start : start + _SETTLED]
            if start and distance[near[0]] > _SAFE * changed:
                break
            asked = self._queries_at(places[near])[None]
            exact = runtime.score(tokens, pooled, asked, exact=True)[0]
            changed = max(changed, float(np.abs(exact - logits[near]).max()))
            logits[near] = exact

    @cached_property
    def limits(self) -> npt.NDArray[np.float64]:
        """The logits that the thresholds mean, with each tag's slope and bias: K, infinite for 0 or 1.

        A tag is given where its logit is not below its limit, apart from what narrower tags add.
        """
        with np.errstate(divide="ignore"):
            odds = np.log(self.threshold) - np.log1p(-np.minimum(self.threshold, 1))
        limits: npt.NDArray[np.float64] = (odds - self.bias) / self.slope
        return limits

    def _pieces(self, runtime: Scorer, pooled: Floats) -> Iterator[tuple[Indexes, Rows]]:
        """What is decoded in one run: places of S tags, S or N×S, and their queries, Q×S×P×R."""
        skipped = 0
        if self.bank is not None:
            skipped = len(self.bank)
            every = np.arange(skipped)
            if self.shortlist is not None:
                index = self.bank.nearest(pooled, self.shortlist)
                for piece in _cut(self.shortlist, self.bank.rows[0].size * len(pooled)):
                    yield index[:, piece], self.bank.queries(index[:, piece])
            elif runtime.keeps_rows and self.bank.scale is None:
                yield every, self.bank.rows[None]
            else:
                times = _PIECES_ROUNDED if runtime.rounds else 1
                for piece in _cut(skipped, self.bank.rows[0].size, times=times):
                    yield every[piece], self.bank.queries(piece)[None]
        for piece in _cut(len(self.queries), self.queries[0].size if len(self.queries) else 1):
            yield np.arange(len(self.queries))[piece] + skipped, self.queries[None, piece]

    def queries_of(self, tags: Sequence[TagScore]) -> Floats:
        """The queries of tags that were answered: float32 K×P×D."""
        return self._queries_at([self._numbers[tag.id, tag.name] for tag in tags])

    def _queries_at(self, places: Iterable[int]) -> Floats:
        """The queries of some of the asked tags: float32 K×P×R."""
        skipped = 0 if self.bank is None else len(self.bank)
        return _pad(
            [
                self.queries[place - skipped]
                if self.bank is None or place >= skipped
                else self.bank.queries(np.asarray(place))
                for place in places
            ]
        )

    @cached_property
    def _numbers(self) -> dict[tuple[str, str], int]:
        return {key: number for number, key in enumerate(zip(self.ids, self.names, strict=True))}

    def _choose(self, scores: npt.NDArray[np.float64]) -> tuple[TagScore, ...]:
        over = np.greater if self.strict else np.greater_equal
        kept = np.flatnonzero(over(scores, self.threshold))
        best = kept[np.argsort(-scores[kept], kind="stable")][: self.top_k]
        return tuple(
            # six digits: more would be noise, and half of the output
            TagScore(self.ids[i], self.names[i], float(f"{score:.6g}"), self.sources[i])
            for i, score in zip(best.tolist(), scores[best].tolist(), strict=True)
        )


@dataclass(frozen=True, slots=True)
class _Row:
    """One asked tag: which trained query (None: its own words are encoded), and how it appears in results."""

    trained: int | None
    asked: Asked
    id: str
    name: str


class Questions:
    """Makes questions for one model; remembers the vectors of own tags and the last few questions.

    Raises:
        VocabularyError, ModelError: the folder's vocabulary, queries or text encoder cannot be read.
    """

    def __init__(self, folder: ModelFolder) -> None:
        self.card = folder.card
        self.vocabulary = Vocabulary.read(folder.file("vocabulary.jsonl"))
        self._folder = folder
        self._bank = Bank.read(
            folder.file("queries.safetensors"), tags=len(self.vocabulary), width=folder.card.width
        )
        self._own: dict[Asked, Floats] = {}
        self._prepared = lru_cache(maxsize=8)(self._prepare)

    def prepare(
        self,
        tags: Iterable[Ask] | None,
        *,
        also: Iterable[Ask] | None,
        top_k: int | None,
        threshold: float | None,
    ) -> Question:
        """The question as users put it: see `Tagger.tag`."""
        if tags is not None and also is not None:
            raise VocabularyError(
                "both tags and also were given: tags asks exactly these, also asks the vocabulary and these; "
                "give one of them"
            )
        if top_k is not None and top_k < 1:
            raise AnytagError(f"top_k is {top_k}: expected 1 or more")
        if threshold is not None and not 0 <= threshold <= 1:
            raise AnytagError(f"threshold is {threshold}: expected a probability from 0 to 1")
        return self._prepared(_parse(tags, "tags"), _parse(also, "also"), top_k, threshold)

    def _prepare(
        self,
        tags: tuple[Asked, ...] | None,
        also: tuple[Asked, ...] | None,
        top_k: int | None,
        threshold: float | None,
    ) -> Question:
        if tags is not None:
            return self._exactly(self._rows(tags), top_k=top_k, threshold=threshold or 0.0)
        own = [row for row in self._rows(also or ()) if row.trained is None]
        return self._with_vocabulary(own, top_k=top_k, threshold=threshold)

    def _exactly(self, rows: Sequence[_Row], *, top_k: int | None, threshold: float) -> Question:
        shown = len(rows)
        trained = [row.trained for row in rows]
        rows = [*rows, *self._narrower(trained)]
        slope, bias = self._calibration([row.trained for row in rows])
        return Question(
            ids=tuple(row.id for row in rows),
            names=tuple(row.name for row in rows),
            sources=tuple("own" if row.trained is None else "vocabulary" for row in rows),
            slope=slope,
            bias=bias,
            threshold=np.where(np.arange(len(rows)) < shown, threshold, np.inf),
            queries=_pad([self._queries(row) for row in rows]),
            below=self._pairs([row.trained for row in rows]),
            top_k=top_k,
            strict=self.card.strict,
        )

    def _with_vocabulary(
        self, own: Sequence[_Row], *, top_k: int | None, threshold: float | None
    ) -> Question:
        count, shortlist = len(self._bank), self.card.shortlist
        # the first pass may lose a tag that scores below its own threshold, so only where those decide
        decode_all = threshold is not None or shortlist >= count or (top_k or 0) > shortlist
        sources: list[Source] = ["vocabulary" for _ in range(count)]
        sources += ["own" for _ in own]
        slope, bias = self._calibration([*range(count), *(None for _ in own)])
        thresholds = [tag.threshold for tag in self.vocabulary] + [OWN_THRESHOLD] * len(own)
        return Question(
            ids=(*(tag.id for tag in self.vocabulary), *(row.id for row in own)),
            names=(*(tag.name for tag in self.vocabulary), *(row.name for row in own)),
            sources=tuple(sources),
            slope=slope,
            bias=bias,
            threshold=np.array(thresholds) if threshold is None else np.full(len(thresholds), threshold),
            queries=_pad([self._queries(row) for row in own]),
            below=self._pairs([*range(count), *(None for _ in own)]),
            bank=self._bank,
            shortlist=None if decode_all or self._bank.coarse is None else shortlist,
            top_k=top_k,
            strict=self.card.strict,
        )

    def _rows(self, asked: Iterable[Asked]) -> list[_Row]:
        """Asked tags matched with the vocabulary; the same tag asked twice counts once.

        A name that the vocabulary knows is shown as it was asked, under the known tag's id.
        """
        rows: dict[tuple[str, str], _Row] = {}
        for one in asked:
            known = self.vocabulary.find(one.name)
            if known is not None:
                row = _Row(self.vocabulary.index(known.id), one, known.id, one.name)
            else:
                row = _Row(None, one, OWN + one.name, one.name)
                earlier = rows.get((row.id, row.name))
                if earlier is not None and earlier.asked != one:
                    texts = "; ".join((*earlier.asked.descriptions, *one.descriptions))
                    raise VocabularyError(
                        f"the tag {one.name!r} was asked twice with different descriptions; give it once, "
                        f"with all: '{one.name}: {texts}'"
                    )
            rows.setdefault((row.id, row.name), row)
        return list(rows.values())

    def trained(self, ids: Sequence[str]) -> tuple[Floats, npt.NDArray[np.float64]]:
        """The queries of tags, float32 K×P×D, and the slope and bias that make their logits log-odds, 2×K.

        Raises:
            VocabularyError: an id is not in the vocabulary.
        """
        numbers = [self.vocabulary.index(key) for key in ids]
        return self._bank.queries(np.array(numbers, np.int64)), self._calibration(numbers)

    def _queries(self, row: _Row) -> Floats:
        """float32 P×D: trained, or in the user's words, as the card's text encoder is asked."""
        if row.trained is not None:
            return self._bank.queries(np.asarray(row.trained))
        queries = self._own.get(row.asked)
        if queries is None:
            if len(self._own) >= _REMEMBERED:
                self._own.clear()
            asked, encoder = row.asked, self._encoder
            said = tag_rows(asked.name, asked.descriptions, encoder, prompts=self._prompts)
            queries = self._own[asked] = self._projected(said)
        return queries

    def words(self, texts: Sequence[str]) -> Floats:
        """Texts as queries, each on its own, whatever the vocabulary knows: float32 M×1×D."""
        return self._projected(self._encoder.encode(texts))[:, None]

    @cached_property
    def _encoder(self) -> TextEncoder:
        return open_text_encoder(self._folder)

    @property
    def _prompts(self) -> Prompts:
        return "words" if self.card.text is None else self.card.text.prompts

    def _projected(self, vectors: Floats) -> Floats:
        """Text vectors n×W -> rows of queries n×D; where nothing projects them, as they are."""
        encoder = self._encoder
        if isinstance(encoder, StaticTextEncoder) and encoder.has_projection:
            return encoder.project(vectors)
        return vectors

    def _calibration(self, trained: Sequence[int | None]) -> npt.NDArray[np.float64]:
        """Slope and bias of each tag, from the index of its trained query: float64 2×K."""
        own, known = self.card.calibration.own, self.card.calibration.vocabulary
        slope, offset = self._bank.line.T.astype(np.float64)
        lines = [
            (own.scale, own.bias)
            if i is None
            else (slope[i] * known.scale, slope[i] * known.bias + offset[i])
            for i in trained
        ]
        return np.array(lines).T

    def _narrower(self, trained: Iterable[int | None]) -> list[_Row]:
        """What must be decoded besides, so that a tag scores the same whether asked alone or with all."""
        asked = {number for number in trained if number is not None}
        below = [
            (number, self.vocabulary[number])
            for number, above in enumerate(self.vocabulary.broader)
            if number not in asked and asked.intersection(above)
        ]
        return [_Row(number, Asked(tag.name), tag.id, tag.name) for number, tag in below]

    def _pairs(self, trained: Sequence[int | None]) -> Indexes:
        """Pairs of a tag and a broader one among those asked, by their place in `trained`: int64 E×2."""
        places: dict[int, list[int]] = {}
        for place, number in enumerate(trained):
            if number is not None:
                places.setdefault(number, []).append(place)
        pairs = [
            (place, other)
            for place, number in enumerate(trained)
            if number is not None
            for parent in self.vocabulary.broader[number]
            for other in places.get(parent, ())
        ]
        return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _parse(tags: Iterable[Ask] | None, what: str) -> tuple[Asked, ...] | None:
    """Asked tags, parsed.

    Raises:
        VocabularyError: not a list of tags, or an empty one.
    """
    if tags is None:
        return None
    if isinstance(tags, str):
        raise VocabularyError(f"{what} is the text {tags!r}: expected a list, as in {what}=[{tags!r}]")
    parsed = tuple(_parse_one(tag) for tag in tags)
    if not parsed:
        raise VocabularyError(f"{what} is empty: give a tag, or leave {what} out for the whole vocabulary")
    return parsed


def _parse_one(tag: Ask) -> Asked:
    if isinstance(tag, Asked):
        return tag
    if isinstance(tag, str):
        return parse_asked(tag)
    raise VocabularyError(f"a tag cannot be a {type(tag).__name__}: give text such as 'red car', or an Asked")


def _pad(queries: Sequence[Floats]) -> Floats:
    """Queries of K tags, P×D each with a P of its own, as one float32 K×P×D; added rows are zero."""
    if not queries:
        return np.zeros((0, 1, 1), np.float32)
    padded = np.zeros((len(queries), max(map(len, queries)), queries[0].shape[1]), np.float32)
    for row, query in zip(padded, queries, strict=True):
        row[: len(query)] = query
    return padded


def _cut(count: int, floats: int, *, times: int = 1) -> Iterator[slice]:
    """`count` tags, whose queries have so many floats each, in pieces `times` the usual size."""
    step = max(1, times * min(_PIECE, _PIECE_FLOATS // floats))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def _widened(halves: npt.NDArray[np.float16]) -> Floats:
    """Finite float16 as float32, of any shape. By its bits, three times faster than numpy's conversion."""
    bits = np.ascontiguousarray(halves).view(np.int16).astype(np.int32)
    bits <<= 13  # where float32 has exponent and fraction; the sign was copied up to its place
    bits &= np.int32(-0x70002000)  # 0x8FFFE000: the sign's other copies
    wide = bits.view(np.float32)
    wide *= np.float32(2.0**112)  # from one exponent's zero to the other's
    return wide
