"""Tests keep nothing in the cache of who runs them."""

from __future__ import annotations

import os
import shutil
import tempfile

HOME = tempfile.mkdtemp(prefix="anytag-tests-")
os.environ["ANYTAG_HOME"] = HOME  # before any test is imported, so that their processes have it too
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of torch: the cores are taken by the other test processes


def pytest_unconfigure() -> None:
    shutil.rmtree(HOME, ignore_errors=True)
