"""Generation against the published implementation's, kind by kind."""

from __future__ import annotations

import numpy as np
import pytest

from anytag.generation import keep_nucleus, not_before, penalise_repetition
from tests.golden_cases import Case, assert_close, cases


@pytest.mark.parametrize("case", cases("generation/logits_processors"), ids=str)
def test_golden_processors(case: Case) -> None:
    ids, scores, config = case.inputs["input_ids"], case.inputs["scores"], case.config
    made = {f"repetition_penalty.{p}": penalise_repetition(p) for p in config["repetition_penalty"]}
    made |= {f"top_p.{p}": keep_nucleus(p) for p in config["top_p"]}
    made |= {f"min_length.{n}": not_before(n, end=config["eos_token_id"]) for n in config["min_length"]}
    assert set(made) == set(case.outputs)
    for name, process in made.items():
        ours, stored = process(ids, scores), case.outputs[name]
        finite = np.isfinite(stored)
        np.testing.assert_array_equal(np.isfinite(ours), finite)
        assert_close(case.facts, name, ours=ours[finite], stored=stored[finite])
