"""`anytag.evaluation.measure`: figures by hand and against slow loops; nothing is left out without a word."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anytag.errors import AnytagError
from anytag.evaluation.adapters import Predictions
from anytag.evaluation.evaluate import Report, evaluate_retrieval, evaluate_tags
from anytag.evaluation.metrics import resamples
from anytag.evaluation.report import report
from anytag.evaluation.tasks import TagTask, TextTask
from anytag.queries.requests import CustomTag

Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class Fixed:
    """Says the same whatever it is asked."""

    trained_on = "nothing."

    def __init__(
        self, scores: npt.ArrayLike, thresholds: npt.ArrayLike | None = None, *, name: str = "fixed"
    ) -> None:
        self.name = name
        limits = None if thresholds is None else np.array(thresholds, dtype=float)
        self.answers = Predictions(np.array(scores, np.float32), {}, limits)

    def predict(self, task: TagTask, **_: object) -> Predictions:
        return self.answers


def task_of(present: npt.ArrayLike, known: npt.ArrayLike | None = None) -> TagTask:
    there = np.array(present, dtype=bool)
    photos, tags = there.shape
    return TagTask(
        "some",
        tuple(Path(f"{n}.jpg") for n in range(photos)),
        tuple(CustomTag(f"tag {k}") for k in range(tags)),
        there,
        known=None if known is None else np.array(known, dtype=bool),
    )


def figures_of(found: Report) -> dict[str, float]:
    return {name: figure.value for name, figure in found.measured[0].figures.items()}


def test_given_tags_without_photos_enough_count_against_precision() -> None:
    present = [[1, 0], [1, 0], [0, 1]]
    scores = [[0.9, 0.8], [0.9, 0.7], [0.1, 0.2]]  # the second tag is given twice, wrong, and missed once
    found = figures_of(evaluate_tags(task_of(present), [Fixed(scores, [0.5, 0.5])], at_least=2, times=0))
    assert found["precision"] == pytest.approx(50)
    assert found["recall"] == pytest.approx(200 / 3)
    assert found["F1"] == pytest.approx(100 * 2 * 2 / (4 + 3))
    assert (found["macro precision"], found["macro recall"]) == (100, 100)  # of the first tag alone
    assert found["tags a photo"] == pytest.approx(4 / 3)
    assert found["different tags given"] == 2


@settings(max_examples=30, deadline=None)
@given(photos=st.integers(2, 12), at_least=st.integers(1, 3), seed=st.integers(0, 999))
def test_figures_are_those_of_a_slow_loop(photos: int, at_least: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(0, 11, (photos, 4)) / 10
    known = random.random((photos, 4)) < 0.8
    present = (random.random((photos, 4)) < 0.5) & known
    present[:at_least, 0] = known[:at_least, 0] = True
    present, known = present[:photos], known[:photos]
    thresholds = [0.3, 0.5, 0.5, 0.95]
    if (present.sum(0) < at_least).all():
        return
    found = figures_of(
        evaluate_tags(task_of(present, known), [Fixed(scores, thresholds)], at_least=at_least, times=5)
    )
    right = given = there = 0.0
    distances = dict[int, list[tuple[float, bool]]]()
    for n in range(photos):
        for k in range(4):
            score = float(np.float32(scores[n, k]))
            there += present[n, k]
            if known[n, k] and scores[n, k] >= thresholds[k]:
                given += 1
                right += present[n, k]
                distances.setdefault(min(int(score * 20 + 1e-5), 19), []).append((score, bool(present[n, k])))
    assert found["recall"] == pytest.approx(100 * right / there)
    if given:
        assert found["precision"] == pytest.approx(100 * right / given)
        error = sum(abs(sum(score - it for score, it in some)) for some in distances.values()) / given
        assert found["ECE of given tags"] == pytest.approx(100 * error, abs=1e-4)
        score = sum(score for some in distances.values() for score, _ in some) / given
        assert found["mean score of given tags"] == pytest.approx(100 * score)
    else:
        assert "precision" not in found and "ECE of given tags" not in found


@settings(max_examples=30, deadline=None)
@given(photos=st.integers(2, 12), seed=st.integers(0, 999))
def test_no_interval_leaves_what_a_figure_can_be(photos: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    present = random.random((photos, 3)) < 0.5
    present[0, 0] = True
    scores = np.clip(present + random.normal(0, 0.4, present.shape), 0, 1)
    others = [Fixed(random.random(present.shape), [0.5] * 3, name="other")]
    found = evaluate_tags(task_of(present), [Fixed(scores, [0.5] * 3), *others], times=30)
    for one in found.measured:
        for name, figure in one.figures.items():
            if figure.low is not None and figure.high is not None:
                assert -1e-6 <= figure.low <= figure.value + 1e-6, name
                assert figure.value - 1e-6 <= figure.high <= 100 + 1e-6, name
        for some in one.reliability:
            assert 0 <= some.right_low <= some.right <= some.right_high <= 100
    (difference,) = found.differences.values()
    assert difference.low is not None and difference.high is not None
    assert -100 <= difference.low <= difference.value + 1e-6
    assert difference.value - 1e-6 <= difference.high <= 100
    json.dumps(found.to_dict(), allow_nan=False)


def test_reliability_by_hand() -> None:
    scores = [[0.42, 0.9], [0.44, 0.93], [0.2, 0.9], [0.2, 0.1]]
    present = [[1, 1], [0, 1], [1, 0], [0, 0]]
    (one,) = evaluate_tags(task_of(present), [Fixed(scores, [0.4, 0.5])], times=0).measured
    low, high = one.reliability
    assert (low.low, low.high, low.pairs, low.right) == (40, 45, 2, 50)
    assert low.score == pytest.approx(43)
    assert (high.low, high.high, high.pairs) == (90, 95, 3)
    assert (high.score, high.right) == pytest.approx((91, 200 / 3))
    assert (high.right_low, high.right_high) == pytest.approx((20.77, 93.85), abs=0.01)
    error = (2 * 7 + 3 * (91 - 200 / 3)) / 5
    assert one.figures["ECE of given tags"].value == pytest.approx(error, abs=1e-4)
    assert one.figures["ECE of scores from 0.5"].value == pytest.approx(91 - 200 / 3, abs=1e-4)
    assert [line.predicted for line in one.tags] == [2, 3]
    assert [line.score for line in one.tags] == pytest.approx([43, 91])


def test_reliability_and_training_stand_in_all_reports(tmp_path: Path) -> None:
    scores, present = [[0.42, 0.1], [0.1, 0.97]], [[1, 0], [0, 0]]
    found = evaluate_tags(task_of(present), [Fixed(scores, [0.4, 0.5])], times=0)
    _, markdown, page = (path.read_text("utf-8") for path in report.write(found, tmp_path / "out"))
    assert "| 40 to 45 | 1 | 42.0 | 100.0 | 20.7 to 100.0 |" in markdown
    assert "fixed was trained on: nothing." in markdown and "nothing." in page
    assert "| tag 1 | 0 |" in markdown  # given to a photo though none shows it
    assert "<td>40 to 45</td>" in page


def test_who_gives_nothing_has_no_precision() -> None:
    found = evaluate_tags(task_of([[1], [0]]), [Fixed([[0.2], [0.1]], [0.5])], times=10)
    figures = figures_of(found)
    assert "precision" not in figures and figures["recall"] == 0
    assert found.measured[0].reliability == []
    json.dumps(found.to_dict(), allow_nan=False)
    assert "ECE of all pairs" in report.overview(found)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_an_error(broken: float) -> None:
    with pytest.raises(AnytagError, match=r"fixed returns non-finite scores for 1 photos, the first: 1.jpg"):
        evaluate_tags(task_of([[1], [0]]), [Fixed([[0.2], [broken]], [0.5])])


def slow_recall(similar: Doubles, owner: npt.NDArray[np.intp], drawn: list[int], k: int) -> float:
    """Recall from text to photo of the captions of the drawn photos, each as often as its photo is drawn."""
    hits = []
    for photo in drawn:
        for text in np.flatnonzero(owner == photo):
            rank = 1 + sum(
                similar[n, text] >= similar[photo, text] for n in range(len(similar)) if n != photo
            )
            hits.append(bool(rank <= k))
    return 100 * sum(hits) / len(hits)


def test_intervals_of_recall_resample_photos_with_all_of_their_captions() -> None:
    random = np.random.default_rng(0)
    counts = [5, 1, 3, 5, 2, 5, 4, 1]
    owner = np.repeat(np.arange(len(counts)), counts)
    similar = random.random((len(counts), len(owner)))
    similar[owner, np.arange(len(owner))] += 0.7 * random.random(len(counts))[owner]  # photos differ
    texts = tuple(("a",) * count for count in counts)
    task = TextTask("some", tuple(Path(f"{n}") for n in range(len(counts))), texts)
    figure = evaluate_retrieval(task, {"x": similar}, times=100).measured[0].figures["text to photo R@1"]
    drawn = [
        slow_recall(similar, owner, np.repeat(np.arange(len(counts)), row.astype(int)).tolist(), 1)
        for row in resamples(len(counts), 100)
    ]
    low, middle, high = np.percentile(drawn, [2.5, 50, 97.5])
    assert figure.value == pytest.approx(slow_recall(similar, owner, list(range(len(counts))), 1))
    assert figure.low == pytest.approx(figure.value * low / middle)
    assert figure.high == pytest.approx(100 - (100 - figure.value) * (100 - high) / (100 - middle))


def test_five_equal_captions_tell_no_more_than_one() -> None:
    random = np.random.default_rng(1)
    similar = random.random((40, 40)) + 0.3 * np.eye(40)
    photos = tuple(Path(f"{n}") for n in range(40))
    found = [
        evaluate_retrieval(
            TextTask("some", photos, (("a",) * times,) * 40), {"x": np.repeat(similar, times, axis=1)}
        )
        .measured[0]
        .figures["text to photo R@5"]
        for times in (1, 5)
    ]
    assert found[0] == found[1]


def test_similarities_that_are_no_numbers_are_an_error() -> None:
    task = TextTask("some", (Path("a"),), (("one",),))
    with pytest.raises(AnytagError, match="x returns non-finite similarities"):
        evaluate_retrieval(task, {"x": np.array([[np.nan]])})
    with pytest.raises(AnytagError, match="no photo to rank"):
        evaluate_retrieval(TextTask("some", (), ()), {"x": np.zeros((0, 0))})
