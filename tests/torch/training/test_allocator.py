"""Freed memory is kept for later tensors."""

from __future__ import annotations

import subprocess
import sys

import pytest

PAGES = 64 * 2**20 // 4096
PROGRAM = f"""
import resource, sys, torch
from anytag.torch.training.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def faults():
    torch.ones({PAGES} * 1024)  # float32
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
counts = [faults() for _ in range(30)]  # the first ones fill the heap
print(counts[-1] - counts[-2])
"""


def faults(kind: str) -> int:
    """Page faults of a tensor of 64 MB, after others of the same size have been freed."""
    return int(subprocess.check_output([sys.executable, "-c", PROGRAM, kind], text=True))


@pytest.mark.skipif(sys.platform != "linux", reason="other C libraries have no mallopt")
def test_pages_of_a_freed_tensor_are_used_again() -> None:
    assert faults("returned") > 100  # fewer than PAGES where pages are larger
    assert faults("kept") < 100
