"""The embedded model says of the example photos what it said when it came: scripts/record_examples.py."""

from __future__ import annotations

import json

import pytest

from scripts.record_examples import RECORD, record


def test_tags_scores_and_captions_are_the_recorded_ones() -> None:
    expected = json.loads(RECORD.read_text(encoding="utf-8"))
    found = record()
    assert found.keys() == expected.keys()
    for photo, said in expected.items():
        assert found[photo]["caption"] == said["caption"], photo
        for kind in ("default", "strongest", "custom"):
            assert found[photo][kind] == pytest.approx(said[kind], abs=1.1e-6), (photo, kind)
