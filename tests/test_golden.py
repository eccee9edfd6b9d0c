"""Every golden case is of a kind that exactly one module tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden_cases import KINDS, Case, all_cases


@pytest.mark.parametrize("case", all_cases(), ids=str)
def test_golden_case_is_of_a_known_kind(case: Case) -> None:
    assert case.facts, f"{case.folder} holds no case.json"
    assert case.kind in KINDS, f"{case}: nobody tests the kind {case.kind!r}"
    assert case.facts["name"] == case.folder.name


@pytest.mark.parametrize("kind", KINDS)
def test_golden_kind_has_one_module(kind: str) -> None:
    """Its name appears in the module that is said to test it, and in no other."""
    written = f'"{kind}"'
    found = [
        path.stem for path in Path(__file__).parent.glob("test_*.py") if written in path.read_text("utf-8")
    ]
    assert found == [KINDS[kind]]
