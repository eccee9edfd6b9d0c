"""Autoregressive generation: greedy search, beam search and nucleus sampling, for all runtimes.

The conventions are those of transformers 4.25.1, with which the published captions were made: lengths include
the prompt; the repetition penalty applies to raw scores in greedy search and sampling, but to
log-probabilities in beam search. Photos of a batch are independent: each gets the caption it would get alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np

from anytag._typing import AnyFloats, Doubles, Ints
from anytag.errors import AnytagError, brief, is_number, is_whole

Processor = Callable[[Ints, AnyFloats], AnyFloats]
"""Ids so far N×L and scores of the next id N×V -> scores N×V."""

State = TypeVar("State")

_MAX_LENGTH_PENALTY = 100  # larger ones overflow
_UNUSED_BEAM = -1e9  # log-probability of a beam that does not exist yet; finite, so that sums are never NaN


class Decoder(Protocol[State]):
    """An autoregressive decoder; `State` holds the KV cache, so no id is processed twice."""

    def start(self, prompts: Ints) -> tuple[AnyFloats, State]:
        """Process prompts N×L; return the scores of the next id, N×V, and the state."""
        ...

    def step(self, ids: Ints, state: State) -> tuple[AnyFloats, State]:
        """Process one more id of each text, N; return the scores of the next id, N×V, and the state."""
        ...

    def reorder(self, state: State, index: Ints) -> State:
        """Select the states of the texts at `index`, which may drop, repeat and reorder texts."""
        ...


@dataclass(frozen=True)
class GenerationConfig:
    """Limits and penalties of generation.

    Attributes:
        end, pad: the id that ends a text, and the padding id.
        max_length, min_length: number of ids, including the prompt and excluding the end.
        repetition_penalty: above 1, repeated ids are less likely.
        length_penalty: beam search ranks texts by log-probability / length ** length_penalty.
        forbidden: sequences of ids that no text may contain.
    """

    end: int
    pad: int = 0
    max_length: int = 30
    min_length: int = 10
    repetition_penalty: float = 1.0
    length_penalty: float = 1.0
    forbidden: tuple[tuple[int, ...], ...] = ()
    process: Processor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("min_length", "max_length"):
            check_whole(name, getattr(self, name), least=0)
        if not self.min_length <= self.max_length:
            raise AnytagError(
                f"min_length is {self.min_length}, max_length {self.max_length}: "
                "expected 0 <= min_length <= max_length"
            )
        penalty = self.repetition_penalty
        if not (is_number(penalty) and 0 < penalty < float("inf")):
            raise AnytagError(
                f"repetition_penalty is {brief(penalty)}: expected a number above 0, such as 1.1"
            )
        if not (is_number(self.length_penalty) and abs(self.length_penalty) < _MAX_LENGTH_PENALTY):
            raise AnytagError(
                f"length_penalty is {brief(self.length_penalty)}: expected a number such as 1.0, "
                f"between -{_MAX_LENGTH_PENALTY} and {_MAX_LENGTH_PENALTY}"
            )
        object.__setattr__(self, "process", self._processor())

    def _processor(self) -> Processor:
        steps: list[Processor] = []
        if self.repetition_penalty != 1:
            steps.append(penalise_repetition(self.repetition_penalty))
        if self.forbidden:
            steps.append(forbid(self.forbidden))
        if self.min_length:
            steps.append(enforce_min_length(self.min_length, end=self.end))
        return _chained(steps)


def greedy(decoder: Decoder[State], prompts: Ints, config: GenerationConfig) -> Ints:
    """Choose the most likely id at each step.

    Args:
        decoder: conditioned on the photos.
        prompts: int64 N×P, all of one length.

    Returns:
        int64 N×L: prompt, text and end, padded.

    Raises:
        AnytagError: the prompt is not shorter than `max_length`.
    """
    return _grow(decoder, prompts, config, lambda scores, _: scores.argmax(1))


def sample(
    decoder: Decoder[State], prompts: Ints, config: GenerationConfig, *, top_p: float = 0.9, seed: int = 0
) -> Ints:
    """Sample each id from the likeliest that together reach probability `top_p` (Holtzman et al. 2020).

    Arguments, result and errors as for `greedy`; the random numbers of each photo start from `seed`.
    """
    if not (is_number(top_p) and 0 < top_p <= 1):
        raise AnytagError(f"top_p is {brief(top_p)}: expected a probability above 0, up to 1, such as 0.9")
    check_whole("seed", seed, least=0)
    generators = [np.random.default_rng(seed) for _ in prompts]
    top_p_filter = filter_top_p(top_p)

    def choose(scores: AnyFloats, photos: Ints) -> Ints:
        sums = np.exp(log_softmax(top_p_filter(prompts, scores))).cumsum(1)  # N×V
        at = [generators[photo].random() * row[-1] for photo, row in zip(photos, sums, strict=True)]
        ids: Ints = (sums <= np.array(at)[:, None]).sum(1)
        return ids

    return _grow(decoder, prompts, config, choose)


def beam_search(decoder: Decoder[State], prompts: Ints, config: GenerationConfig, *, beams: int = 3) -> Ints:
    """Keep the `beams` most likely texts of each photo at each step.

    Arguments, result and errors as for `greedy`.
    """
    _check(prompts, config)
    check_whole("beams", beams, least=1)
    results = [_Hypotheses(beams, config.length_penalty) for _ in prompts]
    live = list(range(len(prompts)))
    ids = prompts.repeat(beams, axis=0)  # (N·beams)×L: the rows of a photo are adjacent
    sums = np.tile([0.0] + [_UNUSED_BEAM] * (beams - 1), (len(prompts), 1))  # N×beams
    logits, state = decoder.start(prompts)
    index = np.arange(len(prompts)).repeat(beams)
    logits, state = logits[index], decoder.reorder(state, index)
    while True:
        scores = config.process(ids, log_softmax(logits)).reshape(len(live), beams, -1)
        sums, parents, tokens = _advance(scores + sums[:, :, None], ids, config, [results[n] for n in live])
        ids = np.concatenate([ids[parents], tokens[:, None]], axis=1)
        live_rows = [place for place, photo in enumerate(live) if not results[photo].done]
        if not live_rows or ids.shape[1] >= config.max_length:
            break
        rows = (np.array(live_rows)[:, None] * beams + np.arange(beams)).ravel()
        live, sums, ids = [live[place] for place in live_rows], sums[live_rows], ids[rows]
        logits, state = decoder.step(tokens[rows], decoder.reorder(state, parents[rows]))
    for place in live_rows:
        for beam in range(beams):
            results[live[place]].add(ids[place * beams + beam], float(sums[place, beam]))
    return _padded([one.best() for one in results], config)


class _Hypotheses:
    """The `beams` best finished texts of one photo.

    Attributes:
        done: no better text can be expected.
    """

    def __init__(self, beams: int, length_penalty: float) -> None:
        self._beams, self._length_penalty = beams, length_penalty
        self._texts: list[tuple[float, Ints]] = []
        self.done = False

    def add(self, text: Ints, log_probability: float) -> None:
        score = self._score(log_probability, len(text))
        if len(self._texts) < self._beams or score > self._worst():
            self._texts.append((score, text))
        if len(self._texts) > self._beams:
            del self._texts[min(range(len(self._texts)), key=lambda place: self._texts[place][0])]

    def update_done(self, best: float, length: int) -> None:
        """Set `done` if the most likely unfinished text, now of `length` ids, scores no better than these."""
        full = len(self._texts) >= self._beams
        self.done = self.done or (full and self._worst() >= self._score(best, length))

    def best(self) -> Ints:
        """Return the text with the highest score, the latest of equals."""
        return sorted(self._texts, key=lambda text: text[0])[-1][1]

    def _worst(self) -> float:
        return min(score for score, _ in self._texts)

    def _score(self, log_probability: float, length: int) -> float:
        return log_probability / float(length**self._length_penalty)


def _advance(
    scores: AnyFloats, ids: Ints, config: GenerationConfig, results: Sequence[_Hypotheses]
) -> tuple[Doubles, Ints, Ints]:
    """Advance the beams of every photo by one id; finished texts are added to `results`.

    Args:
        scores: n×beams×V, of each text continued with each id.
        ids: (n·beams)×L.

    Returns:
        sums n×beams, and for each of n·beams rows the index of the row it continues, and its new id.
    """
    photos, beams, words = scores.shape
    flat = scores.reshape(photos, -1)
    best = _top(flat, 2 * beams)
    sums = np.zeros((photos, beams))
    parents, tokens = np.zeros(photos * beams, np.int64), np.zeros(photos * beams, np.int64)
    for photo, candidates in enumerate(best):
        going = []
        for rank, candidate in enumerate(candidates):
            parent, token = photo * beams + candidate // words, candidate % words
            if token != config.end:
                going.append((candidate, parent, token))
            elif rank < beams:
                results[photo].add(ids[parent], float(flat[photo, candidate]))
            if len(going) == beams:
                break
        winners, start = [candidate for candidate, *_ in going], photo * beams
        sums[photo] = flat[photo, winners]
        parents[start : start + beams] = [parent for _, parent, _ in going]
        tokens[start : start + beams] = [token for *_, token in going]
        results[photo].update_done(float(flat[photo, candidates[0]]), ids.shape[1])
    return sums, parents, tokens


def _grow(
    decoder: Decoder[State],
    prompts: Ints,
    config: GenerationConfig,
    choose: Callable[[AnyFloats, Ints], Ints],
) -> Ints:
    """Generate id by id; `choose` takes scores n×V and the indices of the n photos they belong to."""
    _check(prompts, config)
    live = np.arange(len(prompts))
    ids = prompts
    logits, state = decoder.start(prompts)
    while True:
        tokens = choose(config.process(ids[live], logits), live)
        column = np.full((len(ids), 1), config.pad, np.int64)
        column[live, 0] = tokens
        ids = np.concatenate([ids, column], axis=1)
        going = np.flatnonzero(tokens != config.end)
        if not len(going) or ids.shape[1] >= config.max_length:
            return ids
        if len(going) < len(live):
            state = decoder.reorder(state, going)
        live = live[going]
        logits, state = decoder.step(tokens[going], state)


def check_whole(name: str, value: object, *, least: int, most: int | None = None) -> None:
    """Check that a parameter is an integer in range.

    Raises:
        AnytagError: it is not; names it.
    """
    limit = "" if most is None else f", {most} at most"
    if not is_whole(value) or value < least or (most is not None and value > most):
        raise AnytagError(f"{name} is {brief(value)}: expected a whole number, {least} or more{limit}")


def _check(prompts: Ints, config: GenerationConfig) -> None:
    if prompts.ndim != 2 or not prompts.size:
        raise AnytagError(f"prompts of shape {prompts.shape}: expected N×P, not empty")
    if prompts.shape[1] >= config.max_length:
        raise AnytagError(
            f"max_length is {config.max_length}, but the prompt alone has {prompts.shape[1]} ids: "
            f"give {prompts.shape[1] + 1} or more"
        )


def _padded(texts: Sequence[Ints], config: GenerationConfig) -> Ints:
    """Stack texts as padded rows N×L, each ended by `end` where there is room."""
    width = min(max(map(len, texts)) + 1, config.max_length)
    rows = np.full((len(texts), width), config.pad, np.int64)
    for row, text in zip(rows, texts, strict=True):
        row[: len(text)] = text
        row[len(text) : len(text) + 1] = config.end
    return rows


def _top(scores: AnyFloats, count: int) -> Ints:
    """Columns of the `count` highest scores of each row, in descending order, the first of equals first."""
    count = min(count, scores.shape[1])
    some = np.sort(np.argpartition(-scores, count - 1, axis=1)[:, :count], axis=1)
    order = np.argsort(-np.take_along_axis(scores, some, 1), axis=1, kind="stable")
    return np.take_along_axis(some, order, 1)


def log_softmax(scores: AnyFloats) -> AnyFloats:
    """Log-probabilities from scores N×V."""
    shifted = scores - scores.max(1, keepdims=True)
    logs: AnyFloats = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return logs


def _chained(steps: Sequence[Processor]) -> Processor:
    """Apply processors one after the other."""

    def process(ids: Ints, scores: AnyFloats) -> AnyFloats:
        for step in steps:
            scores = step(ids, scores)
        return scores

    return process


def enforce_min_length(length: int, *, end: int) -> Processor:
    """Forbid `end` while a text has fewer than `length` ids."""

    def process(ids: Ints, scores: AnyFloats) -> AnyFloats:
        if ids.shape[1] >= length:
            return scores
        scores = scores.copy()
        scores[:, end] = -np.inf
        return scores

    return process


def penalise_repetition(penalty: float) -> Processor:
    """Divide the scores of ids in the text, prompt included, by `penalty`; multiply negative ones."""

    def process(ids: Ints, scores: AnyFloats) -> AnyFloats:
        previous = np.take_along_axis(scores, ids, 1)
        scores = scores.copy()
        np.put_along_axis(scores, ids, np.where(previous < 0, previous * penalty, previous / penalty), 1)
        return scores

    return process


def filter_top_p(top_p: float) -> Processor:
    """Keep only the fewest most likely ids that reach probability `top_p`; set the others to -inf."""

    def process(_: Ints, scores: AnyFloats) -> AnyFloats:
        order = np.argsort(scores, axis=1, kind="stable")  # ascending
        cumulative = np.exp(log_softmax(np.take_along_axis(scores, order, 1))).cumsum(1)
        cut = cumulative <= 1 - top_p
        cut[:, -1] = False
        below_top_p = np.zeros_like(cut)
        np.put_along_axis(below_top_p, order, cut, 1)
        return np.where(below_top_p, -np.inf, scores)

    return process


def forbid(phrases: Sequence[Sequence[int]]) -> Processor:
    """Forbid sequences of ids: the last id is ruled out wherever the text ends with the others."""

    def process(ids: Ints, scores: AnyFloats) -> AnyFloats:
        scores = scores.copy()
        for phrase in phrases:
            before = np.array(phrase[:-1], np.int64)
            if len(before) <= ids.shape[1]:
                here = (ids[:, ids.shape[1] - len(before) :] == before).all(1)
                scores[here, phrase[-1]] = -np.inf
        return scores

    return process
