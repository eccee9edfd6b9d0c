from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anytag.errors import ModelError, VocabularyError
from anytag.text_encoders.wordpiece import WordPieces

ENTRIES = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "|", ",", ".", "-", "'", "a", "dog", "cat", "run",
    "green", "grass", "of", "picture", "##s", "##ning", "x", "ray", "t", "don",
]  # fmt: skip
PIECES = WordPieces(ENTRIES)
WORDS = st.lists(st.sampled_from([entry for entry in ENTRIES[10:] if "#" not in entry]), max_size=60)


def entries(ids: np.ndarray) -> list[str]:
    return [PIECES.entries[number] for number in ids]


def test_two_special_wordpieces_come_last() -> None:
    assert len(PIECES) == len(ENTRIES) + 2
    assert PIECES.entries[PIECES.begin] == "[DEC]"
    assert PIECES.entries[PIECES.encode] == "[ENC]"
    assert (PIECES.begin, PIECES.encode) == (len(ENTRIES), len(ENTRIES) + 1)


def test_tags_become_a_text_of_one_length() -> None:
    ids, mask = PIECES.tag_text([["dogs", "green grass"], []], length=9)
    assert ids.shape == mask.shape == (2, 9)
    assert entries(ids[0]) == ["[ENC]", "dog", "##s", "|", "green", "grass", "[SEP]", "[PAD]", "[PAD]"]
    assert entries(ids[1])[:3] == ["[ENC]", "[SEP]", "[PAD]"]
    assert mask.tolist() == [[1] * 7 + [0] * 2, [1, 1] + [0] * 7]


@settings(max_examples=50, deadline=None)
@given(tags=WORDS)
def test_too_many_tags_are_cut_and_the_end_stays(tags: list[str]) -> None:
    ids, mask = PIECES.tag_text([tags])
    assert ids.shape == (1, 40)
    last = int(mask[0].sum()) - 1
    assert (ids[0, 0], ids[0, last]) == (PIECES.encode, PIECES.end)
    assert not ids[0, last + 1 :].any()


def test_captions_for_training() -> None:
    ids = PIECES.caption_text(["A dog runs.", "Cat", "a a a a a a a a a a"], length=7)
    assert entries(ids[0]) == ["[DEC]", "a", "dog", "run", "##s", ".", "[SEP]"]
    assert entries(ids[1])[:4] == ["[DEC]", "cat", "[SEP]", "[PAD]"]
    assert entries(ids[2])[-2:] == ["a", "[SEP]"]
    assert ids.shape == (3, 7)


def test_prompts_and_back() -> None:
    assert entries(np.array(PIECES.prompt("a picture of "))) == ["[DEC]", "a", "picture", "of"]
    ids = [*PIECES.prompt("A dog, don't run - x-ray."), PIECES.end, 0, 0]
    assert PIECES.decode(ids) == "a dog, don't run - x - ray."


@settings(max_examples=50, deadline=None)
@given(words=WORDS)
def test_known_words_come_back(words: list[str]) -> None:
    assert PIECES.decode(PIECES.pieces(" ".join(words))).split() == words


@pytest.mark.parametrize("text", ["[SEP]", "[DEC] [PAD]", "[ENC]dog"])
def test_no_text_makes_special_wordpieces(text: str) -> None:
    ids = PIECES.pieces(text)
    assert not {0, PIECES.cls, PIECES.end, PIECES.begin, PIECES.encode} & set(ids)


def test_what_cannot_be_said_cannot_be_forbidden() -> None:
    assert PIECES.wordings("green grass") == [tuple(PIECES.pieces("green grass"))]
    for word in ("", "zebra", "☃"):
        with pytest.raises(VocabularyError, match="no caption can contain"):
            PIECES.wordings(word)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"[PAD]\n[UNK]\n[CLS]\ndog\n", r"lack \[SEP\]"),
        (b"dog\n[PAD]\n[UNK]\n[CLS]\n[SEP]\n", "as the first"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\ndog\ndog\n", "are not unique"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[DEC]\n", "are not unique"),
        (b"\xff\xfe", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_vocabulary_is_named(text: bytes | None, says: str, tmp_path: Path) -> None:
    file = tmp_path / "vocab.txt"
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(ModelError, match=says) as caught:
        WordPieces.from_file(file)
    assert "vocab.txt" in str(caught.value)
