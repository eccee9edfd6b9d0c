"""Fixtures of training tests: one thread, and photos."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import one_thread as one_thread
from tests.runs import write_photos


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """rows.jsonl of 18 photos, a third of them held out."""
    return write_photos(tmp_path_factory.mktemp("photos"))
