"""Searches over a small random language whose state is the text itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anytag._typing import AnyFloats, Ints
from anytag.errors import AnytagError
from anytag.generation import GenerationConfig, beam_search, filter_top_p, forbid, greedy, log_softmax, sample

END, WORDS = 1, 6
LIMITS = GenerationConfig(end=END, max_length=9, min_length=4)
FEW = settings(max_examples=40, deadline=None)


@dataclass(frozen=True)
class Language:
    """Each photo's scores depend on the photo, the last id and the length.

    Attributes:
        table: photos×length×WORDS×WORDS.
        sharpness: how sure it is.
    """

    seed: int
    photos: tuple[int, ...]
    sharpness: float = 2.0

    def start(self, prompts: Ints) -> tuple[AnyFloats, tuple[Ints, Ints]]:
        state = (np.array(self.photos), prompts)
        return self._scores(*state), state

    def step(self, ids: Ints, state: tuple[Ints, Ints]) -> tuple[AnyFloats, tuple[Ints, Ints]]:
        photos, read = state
        assert ids.shape == (len(read),)
        state = photos, np.concatenate([read, ids[:, None]], axis=1)
        return self._scores(*state), state

    def reorder(self, state: tuple[Ints, Ints], index: Ints) -> tuple[Ints, Ints]:
        return state[0][index], state[1][index]

    def _scores(self, photos: Ints, read: Ints) -> AnyFloats:
        rows = [self.scores(int(photo), text) for photo, text in zip(photos, read, strict=True)]
        return np.array(rows, np.float32)

    def scores(self, photo: int, text: Ints) -> Any:
        draw = np.random.default_rng([self.seed, photo, len(text), int(text[-1])])
        return draw.normal(0, self.sharpness, WORDS)


def prompts(count: int) -> Ints:
    return np.tile(np.array([2, 3]), (count, 1))


def trimmed(row: Ints) -> list[int]:
    """Up to the end, without what fills up."""
    ids = row.tolist()
    return ids[: ids.index(END)] if END in ids else [one for one in ids if one != LIMITS.pad]


SEARCHES: dict[str, Callable[[Language, Ints, GenerationConfig], Ints]] = {
    "greedy": greedy,
    "beams": lambda language, ids, limits: beam_search(language, ids, limits, beams=3),
    "sample": lambda language, ids, limits: sample(language, ids, limits, top_p=0.8, seed=5),
}


@pytest.mark.parametrize("name", SEARCHES)
@FEW
@given(seed=st.integers(0, 10**6), count=st.integers(1, 5), penalty=st.sampled_from([1.0, 1.5]))
def test_a_batch_gives_what_single_photos_give(name: str, seed: int, count: int, penalty: float) -> None:
    limits, search = replace(LIMITS, repetition_penalty=penalty), SEARCHES[name]
    whole = search(Language(seed, tuple(range(count))), prompts(count), limits)
    assert whole.dtype == np.int64
    assert (whole[:, :2] == [2, 3]).all()
    for photo in range(count):
        (alone,) = search(Language(seed, (photo,)), prompts(1), limits)
        width = min(len(alone), whole.shape[1])
        np.testing.assert_array_equal(whole[photo, :width], alone[:width])
        assert (whole[photo, width:] == limits.pad).all()


@pytest.mark.parametrize("name", SEARCHES)
@FEW
@given(seed=st.integers(0, 10**6))
def test_lengths_and_forbidden_phrases_are_kept(name: str, seed: int) -> None:
    limits = replace(LIMITS, forbidden=((5,), (4, 4)))
    for row in SEARCHES[name](Language(seed, (0, 1)), prompts(2), limits).tolist():
        assert len(row) <= limits.max_length
        assert END not in row[: limits.min_length]
        assert 5 not in row
        assert (4, 4) not in set(pairwise(row))


@FEW
@given(seed=st.integers(0, 10**6), length_penalty=st.sampled_from([0.0, 1.0]))
def test_enough_beams_find_the_best_text_of_all(seed: int, length_penalty: float) -> None:
    limits = GenerationConfig(end=END, max_length=5, min_length=0, length_penalty=length_penalty)
    language = Language(seed, (0,))
    (found,) = beam_search(language, prompts(1), limits, beams=WORDS**3)

    def score(text: tuple[int, ...]) -> float:
        total, ids = 0.0, np.array([2, 3])
        for token in text:
            total += float(log_softmax(language.scores(0, ids)[None])[0, token])
            ids = np.append(ids, token)
        return total / float((len(ids) - (END in text)) ** length_penalty)

    ending = [(*text, END) for n in range(3) for text in product([0, 2, 3, 4, 5], repeat=n)]
    texts = [*ending, *product([0, 2, 3, 4, 5], repeat=3)]
    best = max(texts, key=score)
    assert found.tolist()[: 2 + len(best)] == [2, 3, *best]


def test_beams_do_better_than_greed() -> None:
    def likelihood(language: Language, row: Ints) -> float:
        ids = trimmed(row)
        steps = [
            float(log_softmax(language.scores(0, np.array(ids[:at]))[None])[0, ids[at]])
            for at in range(2, len(ids))
        ]
        return sum(steps)

    gains = []
    for seed in range(30):
        language = Language(seed, (0,))
        limits = GenerationConfig(end=END, max_length=8, min_length=8)  # all of one length
        (one,), (other,) = greedy(language, prompts(1), limits), beam_search(language, prompts(1), limits)
        gains.append(likelihood(language, other) - likelihood(language, one))
    assert np.mean(gains) > 0.1  # not each time: what looks poor at first may be lost


def test_sampling_follows_the_probabilities_and_the_seed() -> None:
    language = Language(3, (0,))
    limits = GenerationConfig(end=END, max_length=3, min_length=0)
    drawn = [int(sample(language, prompts(1), limits, top_p=1.0, seed=n)[0, 2]) for n in range(2000)]
    wanted = np.exp(log_softmax(language.scores(0, np.array([2, 3]))[None]))[0]
    np.testing.assert_allclose(np.bincount(drawn, minlength=WORDS) / 2000, wanted, atol=0.04)
    same = [sample(Language(3, (0, 1)), prompts(2), LIMITS, seed=8).tolist() for _ in range(2)]
    assert same[0] == same[1]


def test_a_nucleus_is_never_empty() -> None:
    scores = np.array([[9.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    kept = filter_top_p(0.01)(prompts(2), scores)
    assert np.isfinite(kept).sum(1).tolist() == [1, 1]
    assert np.isfinite(filter_top_p(1.0)(prompts(2), scores)).all()


def test_forbidding_looks_at_what_stands_before() -> None:
    ids = np.array([[2, 3], [3, 2]])
    scores = forbid([(2, 3, 4), (2, 5), (1, 1, 1, 1)])(ids, np.zeros((2, 6)))
    assert np.argwhere(np.isinf(scores)).tolist() == [[0, 4], [1, 5]]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: GenerationConfig(end=1, max_length=5, min_length=6), "min_length is 6"),
        (lambda: GenerationConfig(end=1, repetition_penalty=0), "repetition_penalty is 0"),
        (
            lambda: greedy(Language(0, (0,)), prompts(1), GenerationConfig(1, max_length=2, min_length=0)),
            "give 3",
        ),
        (lambda: greedy(Language(0, ()), prompts(0), LIMITS), "not empty"),
        (lambda: beam_search(Language(0, (0,)), prompts(1), LIMITS, beams=0), "beams is 0"),
        (lambda: sample(Language(0, (0,)), prompts(1), LIMITS, top_p=1.5), "top_p is 1.5"),
    ],
)
def test_wrong_numbers_are_named(wrong: Any, says: str) -> None:
    with pytest.raises(AnytagError, match=says):
        wrong()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"max_length": 2.5}, "max_length is 2.5: expected a whole number"),
        ({"min_length": -1}, "min_length is -1"),
        ({"max_length": 3}, "expected 0 <= min_length <= max_length"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty is nan"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty is inf"),
        ({"repetition_penalty": "1"}, "repetition_penalty is '1'"),
        ({"length_penalty": float("nan")}, "length_penalty is nan"),
        ({"length_penalty": 1e9}, "length_penalty is 1000000000.0"),
    ],
)
def test_limits_name_what_is_wrong(change: dict[str, Any], says: str) -> None:
    with pytest.raises(AnytagError, match=says):
        replace(LIMITS, **change)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"top_p": 0}, "top_p is 0"), ({"top_p": "1"}, "top_p is '1'"),
     ({"top_p": float("nan")}, "top_p is nan"),
     ({"seed": -1}, "seed is -1"), ({"seed": 1.5}, "seed is 1.5")],
)  # fmt: skip
def test_draws_name_what_is_wrong(options: dict[str, Any], says: str) -> None:
    with pytest.raises(AnytagError, match=says):
        sample(Language(0, (0,)), np.zeros((1, 1), np.int64), LIMITS, **options)
