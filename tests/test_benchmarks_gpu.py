"""benchmarks/gpu.py runs from end to end; what it is for needs a GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_every_part_runs_on_a_cpu_with_small_networks() -> None:
    command = [sys.executable, "benchmarks/gpu.py", "--tiny", "--device", "cpu", "--no-golden"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "skipped" not in done.stdout
    assert done.stdout.count("| torch, ") == 6
    assert "Training step, batch 4 at 32 pixels" in done.stdout
    assert "Image graph in onnxruntime, providers in use: CPUExecutionProvider" in done.stdout
