"""`anytag.scoring`: which tags of a photo are selected."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from anytag.scoring import add_nearest, ranked, reaches

SCORES = np.array([0.9, 0.35, 0.5, 0.1, 0.39])
THRESHOLDS = np.array([0.4, 0.4, 0.8, 0.4, np.inf])


def selected(count: int, share: float) -> list[int]:
    mask = add_nearest(reaches(SCORES, THRESHOLDS), SCORES, THRESHOLDS, count=count, share=share)
    return [int(place) for place in ranked(SCORES, mask)]


def test_the_nearest_to_their_thresholds_come_first() -> None:
    assert selected(1, 0.1) == [0]
    assert selected(2, 0.1) == [0, 1]  # 0.35 of 0.4 is nearer than 0.5 of 0.8
    assert selected(3, 0.1) == [0, 2, 1]
    assert selected(9, 0.1) == [0, 2, 1, 3]  # never a tag without a threshold
    assert selected(9, 0.7) == [0, 1]


@given(
    pairs=st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 1)), min_size=1, max_size=20),
    count=st.integers(1, 5),
    share=st.floats(0.1, 1),
)
def test_tags_are_only_added_where_too_few_are_selected(
    pairs: list[tuple[float, float]], count: int, share: float
) -> None:
    scores, thresholds = np.array(pairs).T
    before = reaches(scores, thresholds)
    after = add_nearest(before, scores, thresholds, count=count, share=share)
    assert (after | ~before).all()
    assert after.sum() <= max(before.sum(), count)
    added = after & ~before
    assert (scores[added] >= share * thresholds[added] - 1e-9).all()
    if after.sum() < count:
        assert not ((scores >= share * thresholds + 1e-9) & ~after).any()
