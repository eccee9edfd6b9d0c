"""Golden cases: inputs with the outputs of the published code, one folder each below $ANYTAG_GOLDEN.

A test module asks for the cases of its kinds: `@pytest.mark.parametrize("case", cases("swin/forward"))`. So a
further case of a known kind needs no code, and `test_golden.py` finds cases of kinds that nobody tests.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

FOLDER = Path(os.environ.get("ANYTAG_GOLDEN") or Path(__file__).parent / "golden")
Arrays = dict[str, npt.NDArray[Any]]

# Which module tests a kind: exactly one.
KINDS = {
    "generation/logits_processors": "test_golden_generation",
    "loss/asymmetric": "torch/training/test_losses",
    "metrics/tagging": "evaluation/test_metrics",
    "preprocess/image": "test_golden_nn",
    "ram/openset": "test_golden_nn",
    "ram/checkpoint": "test_golden_nn",
    "ram/tagging": "test_golden_nn",
    "ram/train": "test_golden_training",
    "ram_plus/checkpoint": "test_golden_nn",
    "ram_plus/openset": "test_golden_nn",
    "ram_plus/tagging": "test_golden_nn",
    "ram_plus/train": "test_golden_training",
    "schedule/lr": "test_golden_training",
    "swin/forward": "test_golden_nn",
    "swin/relpos_interpolation": "test_golden_nn",
    "tag2text/generate": "test_golden_generation",
    "tag2text/text_modules": "test_golden_nn",
    "tag2text/train": "test_golden_training",
    "text/caption_cleaning": "test_golden_text",
    "text/llm_descriptions": "test_golden_text",
    "text/openset_templates": "test_golden_text",
    "vit/forward": "test_golden_nn",
    "vit/posembed_interpolation": "test_golden_nn",
}


@dataclass(frozen=True)
class Case:
    """One folder, read when asked; stored half floats become float32."""

    folder: Path

    def __str__(self) -> str:
        return self.folder.name

    @cached_property
    def facts(self) -> dict[str, Any]:
        """case.json."""
        return self._json("case.json")

    @property
    def kind(self) -> str:
        return f"{self.facts.get('family')}/{self.facts.get('kind')}"

    @property
    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = self.facts["config"]
        return config

    @cached_property
    def weights(self) -> Arrays:
        return self._arrays("weights.safetensors")

    @cached_property
    def inputs(self) -> Arrays:
        return self._arrays("inputs.safetensors")

    @cached_property
    def outputs(self) -> Arrays:
        return self._arrays("outputs.safetensors")

    @cached_property
    def given(self) -> dict[str, Any]:
        """inputs.json: strings."""
        return self._json("inputs.json")

    @cached_property
    def said(self) -> dict[str, Any]:
        """outputs.json: strings."""
        return self._json("outputs.json")

    def check(self, name: str, ours: npt.ArrayLike, *, of_largest: float = 0.0) -> None:
        """Ours against the stored output `name`: floats within its tolerance, whole numbers equal.

        Args:
            of_largest: share of the largest stored value that is allowed, where the tolerance is less.
        """
        stored = self.outputs[name]
        given = np.asarray(ours.cpu() if hasattr(ours, "cpu") else ours)  # a tensor may be on a GPU
        assert given.shape == stored.shape, f"{self} {name}: {given.shape}, stored {stored.shape}"
        if np.issubdtype(stored.dtype, np.floating):
            least = of_largest * float(np.abs(stored).max()) if of_largest else 0.0
            assert_close(self.facts, name, ours=given, stored=stored, least=least)
        else:
            np.testing.assert_array_equal(given, stored, err_msg=f"{self} {name}")

    def _json(self, file: str) -> dict[str, Any]:
        path = self.folder / file
        read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return read

    def _arrays(self, file: str) -> Arrays:
        path = self.folder / file
        stored = load_file(path) if path.exists() else {}
        return {k: v.astype(np.float32) if v.dtype == np.float16 else v for k, v in stored.items()}


def all_cases() -> list[Case]:
    """Every folder below `FOLDER`."""
    return [Case(path) for path in sorted(FOLDER.iterdir()) if path.is_dir()]


def cases(*kinds: str) -> list[Case]:
    """The cases of these kinds, written family/kind."""
    unknown = set(kinds) - set(KINDS)
    assert not unknown, f"add {unknown} to KINDS"
    return [case for case in all_cases() if case.kind in kinds]


def read_case(name: str) -> tuple[dict[str, Any], Arrays, Arrays]:
    """case.json, inputs (stored half floats as float32) and outputs."""
    case = Case(FOLDER / name)
    return case.facts, case.inputs, case.outputs


def assert_close(
    case: dict[str, Any], name: str, *, ours: npt.ArrayLike, stored: npt.ArrayLike, least: float = 0.0
) -> None:
    """Within the case's own tolerance for the output `name`, or within `least` where that is more."""
    distance = np.abs(np.asarray(ours) - np.asarray(stored)).max()
    allowed = max(case["tolerance"]["max_abs"][name], least)
    assert distance <= allowed, f"{case['name']} {name}: {distance}"
