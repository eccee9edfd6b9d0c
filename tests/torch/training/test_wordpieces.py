"""`anytag.torch.training.wordpieces`: a deterministic vocabulary."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from anytag.text_encoders.wordpiece import WordPieces
from anytag.torch.training.wordpieces import (
    count_words,
    learn_merges,
    load_or_train_wordpieces,
    train_wordpieces,
)

CAPTIONS = ["A dog runs on green grass.", "Two dogs run; the grass is wet", "A café, seen from above"] * 3
_MAKE = """
import hashlib, random
from anytag.torch.training.wordpieces import train_wordpieces
draw = random.Random(0)
words = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 9))) for _ in range(400)]  # many ties
made = train_wordpieces([" ".join(draw.choices(words, k=9)) for _ in range(300)], ["zebra"], size=500)
print(hashlib.md5("\\n".join(made.entries).encode()).hexdigest(), len(made))
"""


def test_every_process_makes_the_same() -> None:
    """Also with other hashes of strings."""
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", _MAKE], stdout=subprocess.PIPE, env={**os.environ, "PYTHONHASHSEED": seed}
        )
        for seed in ("0", "1", "2")
    ]
    said = {run.communicate()[0] for run in runs}
    assert len(said) == 1 and said.pop().endswith(b" 500\n")


def test_words_and_names_can_be_said() -> None:
    pieces = train_wordpieces(CAPTIONS, ["zebra xylophone", "日本"], size=120)
    assert len(pieces) <= 120
    for text in ("a dog runs", "zebra xylophone", "dogs | cafe", "日 本"):
        assert pieces.decode(pieces.pieces(text)) == text
    assert len(pieces.pieces("dog")) == 1  # seen often: one piece
    assert pieces.entries[:5] == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "|")


def test_the_pair_seen_most_often_is_joined_first() -> None:
    assert learn_merges({"abab": 3, "abc": 2, "xyz": 4}, 3) == ["ab", "##yz", "xyz"]
    assert learn_merges({"ab": 1, "cd": 1}, 9) == ["ab", "cd"]  # ties are broken alphabetically


def test_rare_letters_make_room_for_words() -> None:
    foreign = [chr(0x4E00 + number) for number in range(3000)]
    pieces = train_wordpieces([*CAPTIONS, " ".join(foreign)], ["dog"], size=200)
    assert len(pieces) <= 200 and "dog" in pieces.entries


def test_words_are_parted_as_the_tokenizer_parts_them() -> None:
    assert count_words(["A Café's  dog-house", "a dog"]) == Counter(
        {"a": 2, "dog": 2, "cafe": 1, "'": 1, "s": 1, "-": 1, "house": 1}
    )
    assert not count_words(["x" * 5000])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(max_size=30), max_size=12), st.integers(20, 60))
def test_any_captions_make_a_vocabulary(captions: list[str], size: int) -> None:
    made = train_wordpieces(captions, ["a"], size=size)
    assert made.entries == train_wordpieces(list(reversed(captions)), ["a"], size=size).entries


def test_the_file_is_made_once(tmp_path: Path) -> None:
    file = tmp_path / "vocab.txt"
    made = load_or_train_wordpieces(file, CAPTIONS, ["dog"], size=80)
    before = hashlib.md5(file.read_bytes()).hexdigest()
    again = load_or_train_wordpieces(file, ["other words"], ["cat"], size=80)
    assert made.entries == again.entries == WordPieces.from_file(file).entries
    assert hashlib.md5(file.read_bytes()).hexdigest() == before
    given_file = tmp_path / "given.txt"
    train_wordpieces(["zebras"], ["zebra"], size=80).write(given_file)
    others = load_or_train_wordpieces(file, CAPTIONS, ["dog"], size=80, again=True, given=str(given_file))
    assert others.entries == WordPieces.from_file(file).entries != made.entries
