"""`anytag.evaluation.captions`: small cases whose scores are worked out by hand."""

from __future__ import annotations

import sys
from math import exp

import pytest

from anytag.errors import AnytagError, MissingExtraError
from anytag.evaluation.captions import caption_metrics, words


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A dog , running .", ["a", "dog", "running"]),
        ("The dog's black-and-white ball!", ["the", "dog", "'s", "black-and-white", "ball"]),
        ("They don’t 'look'...", ["they", "do", "n't", "look"]),
        ("", []),
    ],
)
def test_words_are_cut_as_coco_does(caption: str, expected: list[str]) -> None:
    assert words(caption) == expected


def test_bleu_by_hand() -> None:
    # 5 of 6 words, 3 of 5 pairs, 1 of 4 triples, none of 3 runs of four; the reference is as long
    found = caption_metrics(["the cat sat on the mat"], [["The cat is on the mat."]])
    assert found["BLEU-1"] == pytest.approx(100 * 5 / 6, rel=1e-6)
    assert found["BLEU-2"] == pytest.approx(100 * (5 / 6 * 3 / 5) ** 0.5, rel=1e-6)
    assert found["BLEU-3"] == pytest.approx(100 * (5 / 6 * 3 / 5 * 1 / 4) ** (1 / 3), rel=1e-6)
    assert found["BLEU-4"] == pytest.approx(0, abs=1)


def test_short_captions_are_punished_over_the_whole_corpus() -> None:
    # every word is right; 4 + 4 words against 4 + 6: exp(1 - 10/8)
    found = caption_metrics(
        ["a dog runs fast", "a cat sleeps here"], [["a dog runs fast"], ["a cat sleeps here all day"]]
    )
    for n in range(1, 5):
        assert found[f"BLEU-{n}"] == pytest.approx(100 * exp(1 - 10 / 8), rel=1e-6)


def test_the_closest_reference_length_counts() -> None:
    found = caption_metrics(["a dog runs fast"], [["a dog runs fast over the wet sand", "the dog runs fast"]])
    assert found["BLEU-4"] == pytest.approx(100, rel=1e-6)


def test_cider_by_hand() -> None:
    # no word in common: every kind of n-gram has cosine 1 with its own reference, times 10 (CIDEr-D)
    texts = ["red birds fly north today", "two old men play chess"]
    assert caption_metrics(texts, [[text] for text in texts])["CIDEr"] == pytest.approx(1000)
    assert caption_metrics(texts[::-1], [[text] for text in texts])["CIDEr"] == 0


def test_meteor_by_hand() -> None:
    # all words match in one run: no fragmentation but 0.5 · (1/4)³
    found = caption_metrics(["a dog runs fast"], [["a dog runs fast"]])
    assert found["METEOR"] == pytest.approx(100 * (1 - 0.5 * (1 / 4) ** 3))
    # "dogs" and "dog" share a stem; 1 of 2 matches: P = R = 1/2, one run of one
    found = caption_metrics(["dogs bark"], [["dog howls"]])
    assert found["METEOR"] == pytest.approx(100 * 0.5 * (1 - 0.5))


def test_wrong_input_is_said() -> None:
    with pytest.raises(AnytagError, match="2 captions for 1 lists"):
        caption_metrics(["a", "b"], [["a"]])
    with pytest.raises(AnytagError, match="photo 1 "):
        caption_metrics(["a", "b"], [["a"], []])


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocoevalcap.bleu.bleu", None)
    with pytest.raises(MissingExtraError, match=r"anytag\[eval\]"):
        caption_metrics(["a"], [["a"]])
