"""Golden tagging cases in the forms that are run: folded, and in bfloat16. No tag may change."""

from __future__ import annotations

import pytest
import torch

from anytag.nn.cross import CrossDecoder
from anytag.nn.folding import FoldedCross
from anytag.nn.runtime import MARGIN
from tests.golden_cases import Case, cases
from tests.golden_networks import network_of, rows_of, tensor

KINDS = ("ram/tagging", "ram_plus/tagging")


@pytest.mark.parametrize("case", cases(*KINDS), ids=str)
@torch.inference_mode()
def test_golden_logits_of_the_folded_decoder(case: Case) -> None:
    """In bfloat16 they stay within the margin below which a tag is decoded exactly, so no tag changes."""
    network, queries = network_of(case)
    assert isinstance(network.decoder, CrossDecoder)
    tokens = tensor(case.outputs["image_embeds"])
    exact, reduced = (
        FoldedCross(network.decoder, reduced=reduced)(tokens, tokens[:, 0], rows_of(queries))
        for reduced in (False, True)
    )
    case.check("logits", exact)
    assert 0 < (reduced - exact).abs().max() < MARGIN
