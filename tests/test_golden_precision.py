"""Golden tagging cases in the forms that are run: folded, and in fewer bits. No tag may change."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from anytag._typing import Floats
from anytag.models.card import Card
from anytag.models.folder import ModelFolder, write_card
from anytag.queries import score as scoring
from anytag.queries.score import Question
from anytag.runtime.base import Precision, Runtime
from anytag.runtime.onnx import QUANTIZED_TAGS, TAGS, OnnxRuntime
from anytag.torch.export.dynamic_int8 import to_int8
from anytag.torch.export.onnx_graphs import export_tags_graph
from anytag.torch.nn.absorbed_attention import FoldedCross
from anytag.torch.nn.cross_decoder import CrossDecoder
from anytag.torch.nn.network import TagNetwork
from anytag.torch.nn.quantized_linear import Rounding
from anytag.torch.runtime import TorchRuntime
from tests.golden_cases import Case, cases
from tests.golden_networks import network_of, rows_of, tensor
from tests.tiny import make_tiny_model

KINDS = ("ram/tagging", "ram_plus/tagging")
BITS: tuple[Rounding, ...] = ("bfloat16", "int8")


@pytest.fixture
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A golden case has so few tags that all of them would be decoded exactly."""
    monkeypatch.setattr(scoring, "_EXACT_BATCH", 4)


@pytest.mark.parametrize("case", cases(*KINDS), ids=str)
@torch.inference_mode()
def test_golden_logits_of_the_folded_decoder(case: Case) -> None:
    network, queries = network_of(case)
    assert isinstance(network.decoder, CrossDecoder)
    tokens = tensor(case.outputs["image_embeds"])
    given = tokens, tokens[:, 0], rows_of(queries)
    exact = FoldedCross(network.decoder)(*given)
    case.check("logits", exact)
    for rounding in BITS:
        rounded = FoldedCross(network.decoder, rounding=rounding)(*given)
        # what rounding moves grows with the logits' own spread; whether a tag changes is tested below
        assert 0 < (rounded - exact).abs().max() < 0.1 * max(1.0, float(exact.std()))


@pytest.mark.parametrize("precision", BITS)
@pytest.mark.parametrize("case", cases(*KINDS), ids=str)
def test_golden_tags_in_torch(case: Case, precision: Precision, few_at_once: None) -> None:
    network, question = asked_network(case)
    assert tags(case, question, TorchRuntime(network, precision=precision)) == tags(
        case, question, TorchRuntime(network)
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", cases(*KINDS), ids=str)
def test_golden_tags_in_onnxruntime(case: Case, few_at_once: None, tmp_path: Path) -> None:
    network, question = asked_network(case)
    decoder = network.decoder
    make_tiny_model(tmp_path, width=decoder.width)
    export_tags_graph(decoder.requires_grad_(False), tmp_path / TAGS)
    shutil.copyfile(tmp_path / TAGS, tmp_path / QUANTIZED_TAGS)
    assert to_int8(tmp_path / QUANTIZED_TAGS, large=1, subtract_mean=True)
    write_card(tmp_path, Card.read(tmp_path))
    runtime = OnnxRuntime(ModelFolder.open(tmp_path))
    assert runtime.is_approximate
    assert tags(case, question, runtime) == tags(case, question, TorchRuntime(network))


def asked_network(case: Case) -> tuple[TagNetwork, Question]:
    """A case's network, and its tags with its thresholds asked of it."""
    network, queries = network_of(case)
    rows: Floats = rows_of(queries).detach()[0].numpy()
    names = tuple(str(number) for number in range(len(rows)))
    return network, Question(
        ids=names,
        names=names,
        sources=tuple("vocabulary" for _ in names),
        slope=np.ones(len(rows)),
        bias=np.zeros(len(rows)),
        threshold=np.broadcast_to(case.config.get("class_threshold", case.config["threshold"]), len(rows)),
        queries=rows,
        ancestor_pairs=np.zeros((0, 2), np.int64),
    )


def tags(case: Case, question: Question, runtime: Runtime) -> list[set[str]]:
    """What the case's photos are given."""
    tokens = case.outputs["image_embeds"].astype(np.float32)
    return [{tag.id for tag in photo.tags} for photo in question.answer(runtime, tokens, tokens[:, 0])]
