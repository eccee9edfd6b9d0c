"""Every golden case is of a kind that a module tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden_cases import KINDS, Case, all_cases


@pytest.mark.parametrize("case", all_cases(), ids=str)
def test_golden_case_is_of_a_known_kind(case: Case) -> None:
    assert case.facts, f"{case.folder} holds no case.json"
    assert case.kind in KINDS, f"{case}: nobody tests the kind {case.kind!r}"
    assert case.facts["name"] == case.folder.name


@pytest.mark.parametrize(("kind", "module"), KINDS.items())
def test_golden_kind_is_asked_for_by_its_module(kind: str, module: str) -> None:
    text = (Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8")
    assert f'"{kind}"' in text or f'cases("{kind.partition("/")[2]}")' in text
