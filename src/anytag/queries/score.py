"""Prepared queries, scored for any number of photos.

The tags form two blocks: those that a cheap first pass shortlists for each photo, and those that are decoded
for every photo.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from anytag import scoring
from anytag._typing import Doubles, Floats, Ints, Rows
from anytag.models.card import Fewest
from anytag.queries.bank import Bank
from anytag.results import Source, TagScore
from anytag.runtime.base import Runtime

# Tags decoded in one run, and floats of their queries, to bound memory when thousands are requested.
_CHUNK, _CHUNK_FLOATS = 256, 1 << 23
# Larger chunks for a quantised decoder, which does work per run that all tags share.
_QUANTIZED_FACTOR = 2
# Tags nearest their thresholds are recomputed in float32, 128 at a time, until remaining margins exceed twice
# the largest observed error: of 128 normal errors the largest is 2.7 standard deviations, so 5 of them.
_EXACT_BATCH, _SAFETY_FACTOR = 128, 2


class _Scratch(threading.local):
    """Memory for the queries of a shortlist, one per thread: allocating it costs more than filling it."""

    def __init__(self) -> None:
        self._array: Floats = np.empty(0, np.float32)

    def of(self, shape: tuple[int, ...]) -> Floats:
        """A float32 array with any values, valid until the next call."""
        if self._array.shape != shape:
            self._array = np.empty(shape, np.float32)
        return self._array


_scratch = _Scratch()


class Answer(NamedTuple):
    """The selected tags of a photo, and the tags of `also` below threshold, both by descending score."""

    tags: tuple[TagScore, ...]
    below: tuple[TagScore, ...]


@dataclass(frozen=True, eq=False)
class Question:
    """K tags to score for every photo: first those of `bank`, if there is one, then those of `queries`.

    Attributes:
        ids, names, sources: K each.
        slope, bias: float64 K; probability = sigmoid(slope · logit + bias).
        ancestor_pairs: int64 E×2, pairs of a tag and a broader one: see `scoring.propagate_to_broader`.
        threshold: float64 K; tags with lower scores are left out.
        bank: its tags are decoded for every photo, or with a `shortlist` only where the first pass ranks them
            among the photo's best `shortlist`.
        queries: float32 O×P×R, decoded for every photo.
        top_k: maximum number of tags per photo.
        strict: a score equal to the threshold is left out too.
        fewest: tags of `bank` that a photo gets at least; None: only thresholds select tags.
        added: of the last `added` tags, lower scores are returned separately.
        per_photo: photos are decoded one at a time. If each has its own shortlist, a batch saves nothing, and
            the last digits of a photo's scores are then the same alone and in any batch.
    """

    ids: tuple[str, ...]
    names: tuple[str, ...]
    sources: tuple[Source, ...]
    slope: Doubles
    bias: Doubles
    threshold: Doubles
    queries: Floats
    ancestor_pairs: Ints
    bank: Bank | None = None
    shortlist: int | None = None
    top_k: int | None = None
    strict: bool = False
    fewest: Fewest | None = None
    added: int = 0
    per_photo: bool = False

    def answer(self, runtime: Runtime, tokens: Floats, pooled: Floats) -> list[Answer]:
        """Return the tags of each photo, by descending score.

        Args:
            runtime: decodes queries.
            tokens: float32 N×T×D.
            pooled: float32 N×D.
        """
        index, logits = self.logits(runtime, tokens, pooled)  # both N×S
        if runtime.is_approximate:
            for n in range(len(logits)):
                self._refine(runtime, tokens[n : n + 1], pooled[n : n + 1], places=index[n], logits=logits[n])
        scores = np.zeros((len(index), len(self.ids)))  # N×K; tags outside the shortlist stay 0
        found = scoring.sigmoid(self.slope[index] * logits + self.bias[index])
        np.put_along_axis(scores, index, found, axis=1)
        scoring.propagate_to_broader(scores, self.ancestor_pairs)
        return [self._choose(photo) for photo in scores]

    def logits(self, runtime: Runtime, tokens: Floats, pooled: Floats) -> tuple[Ints, Floats]:
        """Indices of the decoded tags of each photo, and their logits, both N×S. Arguments as `answer`."""
        step = 1 if self.per_photo else max(1, len(tokens))
        nearest = None
        if self.bank is not None and self.shortlist is not None:
            nearest = self.bank.nearest(pooled, self.shortlist)
        parts = []
        for start in range(0, len(tokens), step):
            at = slice(start, start + step)
            some = None if nearest is None else nearest[at]
            parts.append(self._decode(runtime, tokens[at], pooled[at], nearest=some))
        indexes, logits = zip(*parts, strict=True)
        return np.concatenate(indexes), np.concatenate(logits)

    def _decode(
        self, runtime: Runtime, tokens: Floats, pooled: Floats, *, nearest: Ints | None
    ) -> tuple[Ints, Floats]:
        indexes: list[Ints] = []
        logits: list[Floats] = []
        for index, queries in self._chunks(runtime, nearest):
            indexes.append(np.broadcast_to(index, (len(tokens), index.shape[-1])))
            logits.append(runtime.score(tokens, pooled, queries))
        return np.concatenate(indexes, axis=1), np.concatenate(logits, axis=1)

    def _refine(
        self, runtime: Runtime, tokens: Floats, pooled: Floats, *, places: Ints, logits: Floats
    ) -> None:
        """Recompute in float32 the logits whose side of the threshold quantisation may have changed.

        From the smallest margin on, until remaining margins exceed twice the largest observed error. Tags are
        independent in the decoder, so the few near a threshold can be decoded alone.

        Args:
            tokens, pooled: 1×T×D and 1×D.
            places: indices of the decoded tags, S.
            logits: S, changed in place.
        """
        distance = np.abs(logits - self.logit_thresholds[places])
        order = np.argsort(distance)[: np.isfinite(distance).sum()]
        error = 0.0
        for start in range(0, len(order), _EXACT_BATCH):
            places_near = order[start : start + _EXACT_BATCH]
            if start and distance[places_near[0]] > _SAFETY_FACTOR * error:
                break
            queries = self._queries_at(places[places_near])[None]
            exact = runtime.score(tokens, pooled, queries, exact=True)[0]
            error = max(error, float(np.abs(exact - logits[places_near]).max()))
            logits[places_near] = exact

    @cached_property
    def logit_thresholds(self) -> Doubles:
        """The thresholds as logits, with each tag's slope and bias: K, infinite for 0 or 1.

        A tag is selected if its logit reaches this value, apart from the scores of narrower tags.
        """
        return scoring.logit_thresholds(self.threshold, self.slope, self.bias)

    def _chunks(self, runtime: Runtime, nearest: Ints | None) -> Iterator[tuple[Ints, Rows]]:
        """Chunks to decode in one run: indices of S tags, S or N×S, and their queries, Q×S×P×R.

        A chunk's queries are valid until the next one.

        Args:
            nearest: N×S, the shortlist of each photo; None for all tags of the bank.
        """
        skipped = 0
        if self.bank is not None:
            skipped = len(self.bank)
            every = np.arange(skipped)
            if nearest is not None:
                for piece in _slices(nearest.shape[1], self.bank.rows[0].size * len(nearest)):
                    index = nearest[:, piece]
                    out = _scratch.of((*index.shape, *self.bank.rows.shape[1:]))
                    yield index, self.bank.queries(index, out=out)
            elif runtime.caches_queries and self.bank.scale is None:
                yield every, self.bank.rows[None]
            else:
                times = _QUANTIZED_FACTOR if runtime.is_approximate else 1
                for piece in _slices(skipped, self.bank.rows[0].size, times=times):
                    yield every[piece], self.bank.queries(piece)[None]
        for piece in _slices(len(self.queries), self.queries[0].size if len(self.queries) else 1):
            yield np.arange(len(self.queries))[piece] + skipped, self.queries[None, piece]

    def queries_of(self, tags: Sequence[TagScore]) -> Floats:
        """Queries of returned tags: float32 K×P×D."""
        return self._queries_at([self._numbers[tag.id, tag.name] for tag in tags])

    def _queries_at(self, places: Iterable[int]) -> Floats:
        """Queries of some of the tags, by index: float32 K×P×R."""
        skipped = 0 if self.bank is None else len(self.bank)
        return pad(
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

    def _choose(self, scores: Doubles) -> Answer:
        is_over = scoring.reaches(scores, self.threshold, strict=self.strict)
        is_added = np.arange(len(scores)) >= len(scores) - self.added
        if self.fewest is not None:
            is_left_out = is_added | (self.threshold > self.fewest.max_threshold)
            thresholds = np.where(is_left_out, np.inf, self.threshold)
            is_over = scoring.add_nearest(
                is_over, scores, thresholds, count=self.fewest.tags, share=self.fewest.share
            )
        tags = self._tags(scores, scoring.ranked(scores, is_over, self.top_k))
        return Answer(tags, self._tags(scores, scoring.ranked(scores, is_added & ~is_over)))

    def _tags(self, scores: Doubles, best: Ints) -> tuple[TagScore, ...]:
        return tuple(
            # six digits: further ones are noise, and would double the output
            TagScore(self.ids[i], self.names[i], float(f"{score:.6g}"), self.sources[i])
            for i, score in zip(best.tolist(), scores[best].tolist(), strict=True)
        )


def pad(queries: Sequence[Floats]) -> Floats:
    """Stack queries of K tags, each P×D with its own P, into float32 K×P×D, padded with zero rows."""
    if not queries:
        return np.zeros((0, 1, 1), np.float32)
    padded = np.zeros((len(queries), max(map(len, queries)), queries[0].shape[1]), np.float32)
    for row, query in zip(padded, queries, strict=True):
        row[: len(query)] = query
    return padded


def _slices(count: int, floats: int, *, times: int = 1) -> Iterator[slice]:
    """Chunks, of `times` the usual size, of `count` tags whose queries have `floats` numbers each."""
    step = max(1, times * min(_CHUNK, _CHUNK_FLOATS // floats))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))
