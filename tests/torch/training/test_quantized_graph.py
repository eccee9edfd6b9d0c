"""`anytag.torch.training.quantized_graph`: an int8 image graph, cut to pooled features, and with evidence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from anytag.errors import ModelError
from anytag.torch.export.onnx_graphs import export_image_graph
from anytag.torch.export.static_int8.quantize import quantize_image_graph
from anytag.torch.nn.configs import EvidenceConfig
from anytag.torch.nn.evidence import Evidence
from anytag.torch.nn.network import TagNetwork
from anytag.torch.training.quantized_graph import QuantizedGraph
from scripts.float_weights import read_evidence
from tests.networks import TINY, tiny_network

CLASSES = EvidenceConfig(classes=12, words=6, hidden=5)


@pytest.fixture(scope="module")
def network() -> TagNetwork:
    return tiny_network()


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (24, 3, 8, 8), dtype=np.uint8)
    return coarse.repeat(8, 2).repeat(8, 3)


@pytest.fixture(scope="module")
def integers(network: TagNetwork, pixels: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("graph") / "image.onnx"
    export_image_graph(network.encoder, file, size=TINY.size)
    quantize_image_graph(file, file, pixels)
    return file


@pytest.fixture
def evidence(network: TagNetwork) -> Evidence:
    """An evidence module all of whose parts contribute."""
    torch.manual_seed(0)
    made = Evidence(CLASSES, network.encoder.backbone.width, TINY.width).requires_grad_(False)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    nn.init.normal_(made.names)
    return made


def means(network: TagNetwork, pixels: np.ndarray) -> torch.Tensor:
    """Pooled features of the float network."""
    encoder = network.encoder
    seen = (torch.from_numpy(pixels).float() - encoder.mean) / encoder.std
    with torch.no_grad():
        pooled: torch.Tensor = encoder.backbone(seen).mean((2, 3))
    return pooled


def run(model: onnx.ModelProto, pixels: np.ndarray, names: list[str]) -> list[np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(names, {"pixels": pixels}))


def test_the_cut_graph_gives_the_means(network: TagNetwork, integers: Path, pixels: np.ndarray) -> None:
    (found,) = run(QuantizedGraph(integers).cut(), pixels, ["features"])
    exact = means(network, pixels)
    off = np.abs(found - exact.numpy())
    assert off.mean() < 0.02 * exact.abs().max(), (off.mean(), off.max(), exact.abs().max())


def test_evidence_in_integers_is_that_in_floats(
    network: TagNetwork, integers: Path, pixels: np.ndarray, evidence: Evidence
) -> None:
    late = means(network, pixels)
    grown = QuantizedGraph(integers).with_evidence(evidence, late)
    before = run(onnx.load(integers), pixels, ["tokens", "pooled"])
    tokens, pooled = run(grown, pixels, ["tokens", "pooled"])
    assert np.array_equal(tokens, before[0])
    with torch.no_grad():
        exact = evidence(late).numpy()
    added = pooled - before[1]
    assert np.abs(added - exact).max() < 0.1 * np.abs(exact).max()


def test_evidence_of_a_photo_is_the_same_in_any_batch(
    network: TagNetwork, integers: Path, pixels: np.ndarray, evidence: Evidence
) -> None:
    grown = QuantizedGraph(integers).with_evidence(evidence, means(network, pixels))
    alone = run(grown, pixels[3:4], ["pooled"])[0]
    assert np.allclose(run(grown, pixels, ["pooled"])[0][3:4], alone, atol=1e-5)


def test_evidence_takes_the_place_of_what_was_there(
    network: TagNetwork, integers: Path, pixels: np.ndarray, evidence: Evidence, tmp_path: Path
) -> None:
    late = means(network, pixels)
    other = Evidence(CLASSES, network.encoder.backbone.width, TINY.width)
    onnx.save(QuantizedGraph(integers).with_evidence(other, late), tmp_path / "image.onnx")
    again = QuantizedGraph(tmp_path / "image.onnx").with_evidence(evidence, late)
    once = QuantizedGraph(integers).with_evidence(evidence, late)
    assert np.array_equal(run(again, pixels, ["pooled"])[0], run(once, pixels, ["pooled"])[0])
    assert len(again.graph.node) == len(once.graph.node)
    assert len(again.graph.initializer) == len(once.graph.initializer)


def test_evidence_is_read_back_in_floats(
    network: TagNetwork, integers: Path, pixels: np.ndarray, evidence: Evidence, tmp_path: Path
) -> None:
    late = means(network, pixels)
    onnx.save(QuantizedGraph(integers).with_evidence(evidence, late), tmp_path / "image.onnx")
    read = Evidence(CLASSES, network.encoder.backbone.width, TINY.width)
    constants = QuantizedGraph(tmp_path / "image.onnx").constants
    state = {name: torch.tensor(w) for name, w in read_evidence(constants, evidence.names.numpy()).items()}
    kept = {name: w for name, w in evidence.state_dict().items() if name not in state}
    read.load_state_dict({**kept, **state})
    with torch.no_grad():
        exact = evidence(late)
        assert (read(late) - exact).abs().max() < 0.05 * exact.abs().max()


def test_an_exported_encoder_holds_its_evidence(evidence: Evidence, tmp_path: Path) -> None:
    encoder = tiny_network().encoder
    encoder.evidence = evidence
    export_image_graph(encoder, tmp_path / "image.onnx", size=TINY.size)  # compared with torch there


def test_pooled_from_means_is_pooled_from_tokens(evidence: Evidence, pixels: np.ndarray) -> None:
    network = tiny_network()
    network.encoder.evidence = evidence
    with torch.no_grad():
        _, pooled = network.encoder(torch.from_numpy(pixels))
        assert torch.allclose(network.encoder.pool(means(network, pixels)), pooled, atol=1e-3)


def test_a_graph_of_floats_is_no_start(network: TagNetwork, tmp_path: Path) -> None:
    export_image_graph(network.encoder, tmp_path / "image.onnx", size=TINY.size)
    with pytest.raises(ModelError, match="is not an int8 image graph"):
        QuantizedGraph(tmp_path / "image.onnx")
