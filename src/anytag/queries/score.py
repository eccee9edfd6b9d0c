"""A question, prepared once and answered for any number of photos.

Its tags come in two blocks: those that a cheap first pass chooses from for each photo, and those that are
decoded for every photo.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from anytag import scoring
from anytag._typing import Doubles, Floats, Ints, Rows
from anytag.queries.bank import Bank
from anytag.results import Source, TagScore
from anytag.runtime.base import Runtime

# Tags decoded in one run, and floats of their queries: bounds memory when thousands are asked.
_PIECE, _PIECE_FLOATS = 256, 1 << 23
# Times as many where logits are rounded: what tags share is decoded once for all of a piece.
_PIECES_ROUNDED = 2
# Tags nearest their thresholds are recomputed in float32, 128 at a time, until remaining margins exceed twice
# the largest observed error: of 128 normal errors the largest is 2.7 standard deviations, so 5 of them.
_SETTLED, _SAFE = 128, 2


class Answer(NamedTuple):
    """The tags of a photo, and those of `also` that score below their threshold, both by falling score."""

    tags: tuple[TagScore, ...]
    below: tuple[TagScore, ...]


@dataclass(frozen=True, eq=False)
class Question:
    """K tags asked of every photo: first those of `bank`, if there is one, then those of `queries`.

    Attributes:
        ids, names, sources: K each.
        slope, bias: float64 K; probability = sigmoid(slope · logit + bias).
        ancestor_pairs: int64 E×2, pairs of a tag and a broader one: see `scoring.propagate_to_broader`.
        threshold: float64 K; a lower score is left out.
        bank: its tags are decoded for every photo, or with a `shortlist` only where the first pass ranks them
            among the photo's best `shortlist`.
        queries: float32 O×P×R, decoded for every photo.
        top_k: how many tags a photo gets at most.
        strict: a score that equals the threshold is left out too.
        added: of the last `added` tags, lower scores are returned separately.
        per_photo: photos are decoded one at a time. Where each has a shortlist of its own a batch saves
            nothing, and the last digits of a photo's scores are then the same alone and in any batch.
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
    added: int = 0
    per_photo: bool = False

    def answer(self, runtime: Runtime, tokens: Floats, pooled: Floats) -> list[Answer]:
        """The tags of each photo, by falling score.

        Args:
            runtime: decodes queries.
            tokens: float32 N×T×D.
            pooled: float32 N×D.
        """
        index, logits = self.logits(runtime, tokens, pooled)  # both N×S
        if runtime.is_approximate:
            for n in range(len(logits)):
                self._settle(runtime, tokens[n : n + 1], pooled[n : n + 1], places=index[n], logits=logits[n])
        scores = np.zeros((len(index), len(self.ids)))  # N×K; what the first pass left out stays 0
        found = scoring.sigmoid(self.slope[index] * logits + self.bias[index])
        np.put_along_axis(scores, index, found, axis=1)
        scoring.propagate_to_broader(scores, self.ancestor_pairs)
        return [self._choose(photo) for photo in scores]

    def logits(self, runtime: Runtime, tokens: Floats, pooled: Floats) -> tuple[Ints, Floats]:
        """Which tags are decoded for each photo, and their logits: both N×S. Arguments as for `answer`."""
        step = 1 if self.per_photo else max(1, len(tokens))
        parts = [
            self._decode(runtime, tokens[n : n + step], pooled[n : n + step])
            for n in range(0, len(tokens), step)
        ]
        indexes, logits = zip(*parts, strict=True)
        return np.concatenate(indexes), np.concatenate(logits)

    def _decode(self, runtime: Runtime, tokens: Floats, pooled: Floats) -> tuple[Ints, Floats]:
        indexes: list[Ints] = []
        logits: list[Floats] = []
        for index, queries in self._pieces(runtime, pooled):
            indexes.append(np.broadcast_to(index, (len(tokens), index.shape[-1])))
            logits.append(runtime.score(tokens, pooled, queries))
        return np.concatenate(indexes, axis=1), np.concatenate(logits, axis=1)

    def _settle(
        self, runtime: Runtime, tokens: Floats, pooled: Floats, *, places: Ints, logits: Floats
    ) -> None:
        """Recomputes in float32 the logits whose side of the threshold quantisation may have changed.

        From the smallest margin on, until remaining margins exceed twice the largest observed error. Tags are
        independent in the decoder, so the few near a threshold can be decoded alone.

        Args:
            tokens, pooled: 1×T×D and 1×D.
            places: of the tags that were decoded, S.
            logits: S, changed in place.
        """
        distance = np.abs(logits - self.limits[places])
        order = np.argsort(distance)[: np.isfinite(distance).sum()]
        changed = 0.0
        for start in range(0, len(order), _SETTLED):
            places_near = order[start : start + _SETTLED]
            if start and distance[places_near[0]] > _SAFE * changed:
                break
            queries = self._queries_at(places[places_near])[None]
            exact = runtime.score(tokens, pooled, queries, exact=True)[0]
            changed = max(changed, float(np.abs(exact - logits[places_near]).max()))
            logits[places_near] = exact

    @cached_property
    def limits(self) -> Doubles:
        """The logits that the thresholds mean, with each tag's slope and bias: K, infinite for 0 or 1.

        A tag is given where its logit is not below its limit, apart from what narrower tags add.
        """
        return scoring.logit_thresholds(self.threshold, self.slope, self.bias)

    def _pieces(self, runtime: Runtime, pooled: Floats) -> Iterator[tuple[Ints, Rows]]:
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
                times = _PIECES_ROUNDED if runtime.is_approximate else 1
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
        tags = self._tags(scores, scoring.ranked(scores, is_over, self.top_k))
        return Answer(tags, self._tags(scores, scoring.ranked(scores, is_added & ~is_over)))

    def _tags(self, scores: Doubles, best: Ints) -> tuple[TagScore, ...]:
        return tuple(
            # six digits: more would be noise, and half of the output
            TagScore(self.ids[i], self.names[i], float(f"{score:.6g}"), self.sources[i])
            for i, score in zip(best.tolist(), scores[best].tolist(), strict=True)
        )


def pad(queries: Sequence[Floats]) -> Floats:
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
