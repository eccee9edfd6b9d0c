"""Caption graphs agree with torch, wordpiece by wordpiece."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from anytag._typing import Ints
from anytag.errors import ModelError
from anytag.generation import Decoder, GenerationConfig, beam_search, greedy, sample
from anytag.models.card import Card
from anytag.models.folder import ModelFolder, write_card
from anytag.runtime.onnx import CAPTION, MEMORY, OnnxCaptions, OnnxRuntime
from anytag.torch.captions import Head, TorchCaptions
from anytag.torch.export.caption_graphs import (
    CACHE_TOLERANCE,
    check_words,
    export_caption_graphs,
    fake_quantize,
)
from anytag.torch.export.dynamic_int8 import quantize_weights
from anytag.torch.nn.caption_head import CaptionHead
from tests.caption_heads import CONFIG, TOKENS, WIDTH, exported, tiny_head

LIMITS = GenerationConfig(
    end=3, max_length=14, min_length=6, repetition_penalty=1.2, forbidden=((9,), (4, 5))
)
PROMPT = np.array([[58, 9, 7]])


Made = Callable[[str], tuple[Head, OnnxRuntime]]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A head and its graphs, exported once for all tests: torch takes ten seconds."""

    @cache
    def made(kind: str) -> tuple[Head, OnnxRuntime]:
        head = tiny_head(kind)
        return head, exported(head, tmp_path_factory.mktemp(kind) / "model")

    return made


@pytest.fixture(params=["published", "guided"])
def made(request: pytest.FixtureRequest, make: Made) -> tuple[Head, OnnxRuntime]:
    return make(request.param)


def asked(photos: int) -> tuple[Ints, Ints, np.ndarray]:
    draw = np.random.default_rng(1)
    ids = draw.integers(1, CONFIG.words, (photos, CONFIG.tag_length))
    ids[:, 4:] = 0
    return ids, (ids != 0).astype(np.int64), draw.normal(0, 2, (photos, TOKENS, WIDTH)).astype(np.float32)


def searches(decoder: Decoder[Any], photos: int) -> list[list[list[int]]]:
    prompts = PROMPT.repeat(photos, axis=0)
    found = [
        greedy(decoder, prompts, LIMITS),
        sample(decoder, prompts, LIMITS, seed=2),
        beam_search(decoder, prompts, LIMITS, beams=1),
        beam_search(decoder, prompts, LIMITS, beams=3),
    ]
    return [ids.tolist() for ids in found]


@pytest.mark.parametrize("photos", [1, 4])
def test_both_runtimes_write_the_same(made: tuple[Head, OnnxRuntime], photos: int) -> None:
    head, runtime = made
    ours = searches(OnnxCaptions(runtime).decoder(*asked(photos)), photos)
    assert ours == searches(TorchCaptions(head).decoder(*asked(photos)), photos)
    if photos > 1:
        assert len({tuple(row) for row in ours[0]}) > 1, "the photos differ, so must their captions"


def test_a_step_is_told_what_came_before(made: tuple[Head, OnnxRuntime]) -> None:
    """Decoding with the KV cache gives the same as decoding the whole text at once."""
    head, runtime = made
    text = np.random.default_rng(0).integers(1, CONFIG.words, (2, 9))
    for captions in (OnnxCaptions(runtime), TorchCaptions(head)):
        writer: Any = captions.decoder(*asked(2))
        whole, _ = writer.start(text)
        scores, state = writer.start(text[:, :2])
        for column in text.T[2:]:
            scores, state = writer.step(column, state)
        np.testing.assert_allclose(scores, whole, rtol=1e-4, atol=1e-4)


def test_int8_graphs_are_a_rounded_head(tmp_path: Path) -> None:
    head = tiny_head("guided", words=400)
    fake_quantize(head)
    path = exported(head, tmp_path / "model").folder.path
    for name in (MEMORY, CAPTION):
        before = (path / name).stat().st_size
        assert quantize_weights(path / name) < before - 2 * 400 * CONFIG.width
        onnx.checker.check_model(path / name, full_check=True)
    write_card(path, Card.read(path))
    runtime = OnnxRuntime(ModelFolder.open(path), device="cpu")
    ours = searches(OnnxCaptions(runtime).decoder(*asked(3)), 3)
    assert ours == searches(TorchCaptions(head).decoder(*asked(3)), 3)


def test_rounding_twice_changes_nothing() -> None:
    head = tiny_head("guided", words=400)
    fake_quantize(head)
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    fake_quantize(head)
    for name, tensor in head.state_dict().items():
        assert torch.allclose(tensor, before[name], atol=1e-6), name


def test_a_head_of_larger_numbers_is_exported_by_what_its_words_are(tmp_path: Path) -> None:
    """Its logits can differ by more than 1e-4 of the largest, while no word does."""
    config = replace(CONFIG, words=300, layers=6, width=128, heads=4, mlp=256)
    torch.manual_seed(0)
    head = CaptionHead(config, WIDTH).eval().requires_grad_(False)
    for parameter in head.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.2)
    assert export_caption_graphs(head, tmp_path, tokens=(TOKENS, WIDTH)) < CACHE_TOLERANCE


def test_graphs_that_choose_other_words_are_refused(make: Made) -> None:
    made, runtime = make("published")
    head, folder = deepcopy(made), runtime.folder.path
    ids, mask, tokens = (torch.from_numpy(part) for part in asked(2))
    assert check_words(head, folder, [(ids, mask, tokens)]) < 0.01
    head.bias.add_(torch.randn(head.bias.shape))
    with pytest.raises(
        ModelError, match=r"of the median gap between the best word .*: captions would differ"
    ):
        check_words(head, folder, [(ids, mask, tokens)])
