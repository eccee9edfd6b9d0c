"""CLIP's text tower as a text encoder: a tiny one with random weights, saved and loaded again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anytag.errors import ModelError, VocabularyError
from anytag.text_encoders.prompts import template_prompts
from anytag.text_encoders.queries import description_queries, template_queries
from anytag.torch.clip import ClipTextEncoder
from tests.clips import save_tiny_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> ClipTextEncoder:
    return ClipTextEncoder.load(folder, batch=3)


def test_unit_vectors_whatever_the_batch(encoder: ClipTextEncoder, folder: Path) -> None:
    texts = ["a dog", "a much longer text about a cat", "x", "dog", "a cat"]
    vectors = encoder.encode(texts)
    assert vectors.shape == (5, encoder.dim) == (5, 8)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    alone = ClipTextEncoder.load(folder, batch=1).encode(texts)
    np.testing.assert_allclose(vectors, alone, atol=1e-5)  # padding has no effect


def test_long_texts_are_cut(encoder: ClipTextEncoder) -> None:
    vectors = encoder.encode(["dog " * 200, "dog " * 100])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)


def test_no_texts(encoder: ClipTextEncoder) -> None:
    assert encoder.encode([]).shape == (0, 8)
    assert template_queries([], encoder).shape == (0, 8)


def test_templates_are_averaged(encoder: ClipTextEncoder) -> None:
    queries = template_queries(["dog", "ice cream"], encoder)
    mean = encoder.encode(template_prompts("ice cream")).mean(axis=0)
    np.testing.assert_allclose(queries[1], mean / np.linalg.norm(mean), atol=1e-5)


def test_descriptions_stay_apart(encoder: ClipTextEncoder) -> None:
    said = [["a photo of a dog.", "it has fur", "it barks"], []]
    queries = description_queries(["dog", "cat"], said, encoder)
    assert queries.shape == (2, 3, 8)
    np.testing.assert_allclose(queries[0], encoder.encode(said[0]), atol=1e-5)
    np.testing.assert_allclose(queries[1, 0], encoder.encode(["a photo of a cat."])[0], atol=1e-5)
    assert not queries[1, 1:].any()


def test_what_is_no_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no CLIP text tower"):
        ClipTextEncoder.load(tmp_path)


@pytest.mark.parametrize("texts", ["dog", ["dog", " "]])
def test_what_is_no_text_is_said(encoder: ClipTextEncoder, texts: list[str]) -> None:
    with pytest.raises(VocabularyError, match="got the"):
        encoder.encode(texts)
