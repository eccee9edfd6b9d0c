"""The static text encoder against a slow, obvious loop; and whether the shipped table makes sense."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from anytag.errors import FileMismatchError, ModelError, VocabularyError
from anytag.text_encoders import StaticTextEncoder, TextEncoder

SHIPPED = Path(__file__).parents[2] / "src/anytag/assets/mini/text"
TOKENS = ["[UNK]", "red", "car", "dog", "##s", "light", "traffic", "a", "##b", "traffic light"]
WORDS = st.sampled_from(
    ["red", "Car", "dogs", "dog", "ab", "traffic light", "light", "zebra", "RED", "a", "traffic"]
)


def write_tiny(folder: Path) -> Path:
    """A word-piece tokenizer of ten tokens, the last of two words, and a random table 8 wide."""
    flags = {"lstrip": False, "rstrip": False}
    added = [
        {"id": 0, "content": "[UNK]", "special": True, "normalized": False, "single_word": False, **flags},
        {
            "id": 9,
            "content": "traffic light",
            "special": False,
            "normalized": True,
            "single_word": True,
            **flags,
        },
    ]
    settings = {
        "version": "1.0",
        "truncation": None,
        "padding": {
            "strategy": {"Fixed": 16},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[UNK]",
        },
        "added_tokens": added,
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {token: i for i, token in enumerate(TOKENS[:-1])},
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(settings), "utf-8")
    rng = np.random.default_rng(0)
    table = rng.integers(-127, 128, (len(TOKENS), 8)).astype(np.int8)
    save_file(
        {"table": table, "scale": rng.uniform(0.01, 0.1, len(TOKENS)).astype(np.float32)},
        folder / "table.safetensors",
    )
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> StaticTextEncoder:
    return StaticTextEncoder.from_folder(write_tiny(tmp_path_factory.mktemp("text")))


def slow_encode(encoder: StaticTextEncoder, text: str) -> np.ndarray:
    """One text, one token at a time, one number after the other."""
    from safetensors.numpy import load_file

    found = load_file(encoder.folder / "table.safetensors")
    tokenizer = Tokenizer.from_file(str(encoder.folder / "tokenizer.json"))
    tokenizer.no_padding()
    total = np.zeros(encoder.dim)
    count = 0
    for token in tokenizer.encode(text, add_special_tokens=False).tokens[:512]:
        if token == "[UNK]":
            continue
        i = tokenizer.token_to_id(token)
        total += found["table"][i].astype(np.float64) * float(found["scale"][i])
        count += 1
    mean = total / count
    unit: np.ndarray = mean / np.sqrt((mean**2).sum())
    return unit


@given(st.lists(st.lists(WORDS, min_size=1, max_size=6).map(" ".join), max_size=5))
def test_equals_the_slow_loop(tiny: StaticTextEncoder, texts: list[str]) -> None:
    texts = [f"{text} car" for text in texts]  # "zebra" alone is unknown here
    rows = tiny.encode(texts)
    assert rows.shape == (len(texts), 8)
    assert rows.dtype == np.float32
    for row, text in zip(rows, texts, strict=True):
        np.testing.assert_allclose(row, slow_encode(tiny, text), atol=1e-5)


def test_is_a_text_encoder(tiny: StaticTextEncoder) -> None:
    encoder: TextEncoder = tiny
    assert encoder.dim == 8
    assert encoder.encode([]).shape == (0, 8)


def test_more_texts_than_one_batch(tiny: StaticTextEncoder) -> None:
    texts = ["red car", "dogs", "traffic light a"] * 700
    rows = tiny.encode(texts)
    np.testing.assert_array_equal(rows[:3], rows[-3:])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_only_the_first_512_tokens_count(tiny: StaticTextEncoder) -> None:
    long, longer = "red " * 511 + "dog", "red " * 511 + "dog" + " car" * 300
    np.testing.assert_array_equal(*tiny.encode([long, longer]))


def test_a_name_of_several_words_is_matched_as_words(tiny: StaticTextEncoder) -> None:
    whole, plural, parts = tiny.encode(["Traffic Light", "traffic lights", "light traffic"])
    assert whole @ parts < 0.999
    np.testing.assert_allclose(plural, slow_encode(tiny, "traffic light ##s".replace(" ##", "")), atol=1e-5)


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_an_empty_text_is_an_error(tiny: StaticTextEncoder, text: str) -> None:
    with pytest.raises(VocabularyError, match="empty text"):
        tiny.encode(["red", text])


def test_a_text_without_a_known_token_is_an_error(tiny: StaticTextEncoder) -> None:
    with pytest.raises(VocabularyError, match=r"'猫'.*write it in English"):
        tiny.encode(["red", "猫"])


def test_a_single_string_is_an_error(tiny: StaticTextEncoder) -> None:
    with pytest.raises(VocabularyError, match=r"encode\(\['red'\]\)"):
        tiny.encode("red")


@pytest.mark.parametrize("name", ["tokenizer.json", "table.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (write_tiny(tmp_path) / name).unlink()
    with pytest.raises(FileMismatchError, match=name):
        StaticTextEncoder.from_folder(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "table.safetensors"])
def test_a_spoiled_file_is_named(tmp_path: Path, name: str) -> None:
    (write_tiny(tmp_path) / name).write_text("{", "utf-8")
    with pytest.raises(ModelError, match=name):
        StaticTextEncoder.from_folder(tmp_path).encode(["red"])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"table": np.zeros((10, 8), np.int8)}, "'scale'"),
        (
            {"table": np.zeros((10, 8), np.float32), "scale": np.zeros(10, np.float32)},
            "got float32 with 2 axes",
        ),
        ({"table": np.zeros((10, 8), np.int8), "scale": np.zeros(9, np.float32)}, "10 rows but 9 scales"),
        ({"table": np.zeros((4, 8), np.int8), "scale": np.zeros(4, np.float32)}, "10 tokens.*4 rows"),
    ],
)
def test_a_table_of_another_form_is_an_error(
    tmp_path: Path, table: dict[str, np.ndarray], message: str
) -> None:
    save_file(table, write_tiny(tmp_path) / "table.safetensors")
    with pytest.raises(ModelError, match=message):
        StaticTextEncoder.from_folder(tmp_path).encode(["red"])


def projection(rng: np.random.Generator, *, hidden: int = 5) -> dict[str, np.ndarray]:
    shapes = {"skip": (8, 3), "w1": (8, 5), "b1": (5,), "w2": (hidden, 3), "b2": (3,)}
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def test_projection_equals_the_slow_loop(tmp_path: Path) -> None:
    p = projection(np.random.default_rng(1))
    save_file(p, write_tiny(tmp_path) / "projection.safetensors")
    encoder = StaticTextEncoder.from_folder(tmp_path)
    assert encoder.has_projection
    vectors = encoder.encode(["red car", "dog"])
    queries = encoder.project(vectors)
    assert queries.dtype == np.float32
    for x, row in zip(vectors, queries, strict=True):
        hidden = [max(0.0, sum(x[i] * p["w1"][i, j] for i in range(8)) + p["b1"][j]) for j in range(5)]
        for d in range(3):
            skip = sum(x[i] * p["skip"][i, d] for i in range(8))
            expected = skip + sum(hidden[j] * p["w2"][j, d] for j in range(5)) + p["b2"][d]
            assert row[d] == pytest.approx(expected, abs=1e-4)


def test_without_a_projection_there_are_no_queries(tiny: StaticTextEncoder) -> None:
    assert not tiny.has_projection
    with pytest.raises(ModelError, match="no projection"):
        tiny.project(tiny.encode(["red"]))


def test_a_projection_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    save_file(projection(rng, hidden=4), write_tiny(tmp_path) / "projection.safetensors")
    with pytest.raises(ModelError, match="are inconsistent"):
        StaticTextEncoder.from_folder(tmp_path).project(np.ones((1, 8), np.float32))
    save_file(projection(rng), tmp_path / "projection.safetensors")
    with pytest.raises(ModelError, match=r"expected \(n, 8\)"):
        StaticTextEncoder.from_folder(tmp_path).project(np.ones((1, 7), np.float32))


def test_opening_imports_no_tokenizer() -> None:
    code = (
        "import sys; from anytag.text_encoders import StaticTextEncoder; "
        f"StaticTextEncoder.from_folder({str(SHIPPED)!r}); "
        "sys.exit(any(name in sys.modules for name in ('tokenizers', 'safetensors', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture(scope="module")
def shipped() -> StaticTextEncoder:
    return StaticTextEncoder.from_folder(SHIPPED)


@pytest.mark.parametrize(
    ("word", "near", "far"),
    [
        ("dog", "puppy", "banana"),
        ("car", "automobile", "dog"),
        ("sofa", "couch", "beach"),
        ("bicycle", "bike", "guitar"),
        ("sea", "ocean", "kitchen"),
        ("cell phone", "mobile phone", "sea"),
        ("traffic light", "stop light", "giraffe"),
        ("giraffe", "zebra", "toothbrush"),
        ("skateboarder", "a man on a skateboard", "a bowl of soup"),
    ],
)
def test_shipped_table_makes_sense(shipped: StaticTextEncoder, word: str, near: str, far: str) -> None:
    a, b, c = shipped.encode([word, near, far])
    assert a @ b > a @ c + 0.2


@given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30))
def test_shipped_table_spells_any_ascii_text(shipped: StaticTextEncoder, text: str) -> None:
    if text.strip() and "[UNK]" not in text:
        row = shipped.encode([text])[0]
        assert np.linalg.norm(row) == pytest.approx(1, abs=1e-4)


def test_shipped_table_is_small(shipped: StaticTextEncoder) -> None:
    assert shipped.dim == 256
    assert (SHIPPED / "table.safetensors").stat().st_size <= 5_000_000
    assert (SHIPPED / "tokenizer.json").stat().st_size <= 400_000
    assert "Apache-2.0" in (SHIPPED / "README.md").read_text("utf-8")
