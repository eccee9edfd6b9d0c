"""`anytag.torch.checkpoints.load`: decoder.safetensors, which queries are trained with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from anytag import ModelError
from anytag.models.folder import ModelFolder, write_card
from anytag.models.registry import EMBEDDED
from anytag.runtime.onnx import TAGS
from anytag.torch.checkpoints.load import DECODER, load_decoder, save_decoder
from anytag.torch.export.onnx_graphs import LocalizingDecoder
from anytag.torch.export.parity import check_parity
from anytag.torch.nn.folded_decoder import FoldedDecoder
from tests.tiny import make_tiny_model


def test_the_embedded_decoder_is_that_of_its_graph() -> None:
    model = ModelFolder.open(EMBEDDED)
    decoder = load_decoder(model)
    random = torch.Generator().manual_seed(0)
    tokens, queries = (
        torch.randn(*shape, decoder.width, generator=random) for shape in ((2, 49), (1, 30, 3))
    )
    batch = (tokens, tokens.mean(1), 0.1 * queries)
    assert check_parity(LocalizingDecoder(decoder), model.file(TAGS), [batch], tolerance=1e-3) < 5e-4


def folder_with(tmp_path: Path, decoder: FoldedDecoder) -> ModelFolder:
    folder = make_tiny_model(tmp_path / "tiny")
    save_decoder(decoder, folder / DECODER)
    return ModelFolder(folder, write_card(folder, ModelFolder.open(folder).card))


def test_a_decoder_is_read_as_it_was_written(tmp_path: Path) -> None:
    decoder = FoldedDecoder(8, heads=2)
    found = load_decoder(folder_with(tmp_path, decoder))
    assert (found.width, found.heads, found.training) == (8, 2, False)
    for name, weight in decoder.state_dict().items():
        assert torch.equal(found.state_dict()[name], weight.half().float())


def test_a_folder_without_a_decoder_says_what_to_give(tmp_path: Path) -> None:
    model = ModelFolder.open(make_tiny_model(tmp_path / "tiny"))
    with pytest.raises(ModelError, match=r"has no decoder\.safetensors.*give mini"):
        load_decoder(model)


@pytest.mark.parametrize("metadata", [None, {"heads": "3"}, {"heads": "two"}, {"heads": "0"}])
def test_what_is_no_decoder_is_refused(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    model = folder_with(tmp_path, FoldedDecoder(8, heads=2))
    weights = {"key.weight": torch.zeros(8, 8)}
    save_file(weights, model.file(DECODER), metadata=metadata)
    with pytest.raises(ModelError, match="holds no tag decoder"):
        load_decoder(model)
