"""All checks that need a GPU, in one run of minutes: accuracy, precision, speed and a training step of RAM++.

    python benchmarks/gpu.py [--device cuda] [--tiny] [--minutes 8]

It prints Markdown: whether the golden cases pass on the device (float32 and, by their tags, bfloat16); the
speed of RAM++ at its published size with random weights (4,585 tags of 51 descriptions, Swin-L, 384 pixels)
in batches of 1, 8 and 32, in torch and, where this onnxruntime has CUDA, its encoder as ONNX; and a training
step at 224 pixels.
`--tiny` does the same with small networks, also on a CPU: the tests run it. Steps for which the minutes do
not suffice are skipped, and reported as skipped.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F

from anytag.runtime.onnx import available_providers
from anytag.torch.export.onnx_graphs import export_image_graph
from anytag.torch.nn.configs import FAMILIES, CrossConfig, NetworkConfig, SwinConfig
from anytag.torch.nn.network import TagNetwork
from anytag.torch.runtime import TorchRuntime
from anytag.torch.training.batch import Batch
from anytag.torch.training.objectives import OBJECTIVES
from anytag.torch.training.student import FixedQueries, Student
from anytag.torch.training.terms import terms_of

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ("tests/test_golden_nn.py", "tests/test_golden_training.py", "tests/test_golden_precision.py")
BATCHES, ROUNDS = (1, 8, 32), 3


@dataclass(frozen=True)
class Size:
    """The measured sizes: the network, its tags and descriptions, and the photos of a training step."""

    config: NetworkConfig
    tags: int
    descriptions: int
    batch: int
    trained_at: int


def full() -> Size:
    """Return the published size of RAM++."""
    return Size(FAMILIES["ram-plus"], 4585, 51, batch=26, trained_at=224)


def tiny() -> Size:
    """Return the same shape in small, for seconds on a CPU."""
    config = replace(
        FAMILIES["ram-plus"],
        backbone=SwinConfig(width=8, depths=(2, 2), heads=(1, 2), window=4),
        cross=CrossConfig(32, 2, 64),
        size=32,
        width=16,
    )
    return Size(config, 20, 3, batch=4, trained_at=32)


@dataclass
class Bench:
    """One run: its device, size and time limit."""

    device: str
    size: Size
    until: float

    def has_time(self, seconds: float) -> bool:
        """Whether a step of so many seconds, at the published size, still fits in the time limit."""
        return time.monotonic() + (seconds if self.size.tags > 1000 else 1) < self.until

    def seconds(self, work: Callable[[], object]) -> float:
        """Return the median of some rounds, after one to warm up; each waits for the device."""
        found = []
        for _ in range(ROUNDS + 1):
            start = time.perf_counter()
            work()
            if self.device.startswith("cuda"):
                torch.cuda.synchronize()
            found.append(time.perf_counter() - start)
        return sorted(found[1:])[ROUNDS // 2]


def golden(bench: Bench) -> None:
    """Run the golden tests with their networks and inputs on the device."""
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", *GOLDEN]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "ANYTAG_TEST_DEVICE": bench.device},
        capture_output=True,
        text=True,
    )
    last = (done.stdout.strip().splitlines() or ["nothing ran"])[-1]
    print(f"Golden cases on {bench.device}: {last}" + ("" if done.returncode == 0 else " **FAILED**"))
    if done.returncode:
        print(done.stdout[-3000:])


def network_of(bench: Bench) -> TagNetwork:
    torch.manual_seed(0)
    return TagNetwork(bench.size.config)


def speed(bench: Bench) -> None:
    """Measure photos per second from pixels to the logits of all tags, and the accuracy against float32."""
    size, config = bench.size, bench.size.config
    rows = F.normalize(torch.randn(1, size.tags, size.descriptions, config.width), dim=-1).numpy()
    rows.setflags(write=False)  # a table that stays on the device
    print("\n| | batch | s per batch | photos/s | largest difference to float32 |\n|---|---:|---:|---:|---:|")
    exact = None
    for precision in ("float32", "bfloat16"):
        runtime = TorchRuntime(network_of(bench), device=bench.device, precision=precision)
        for batch in BATCHES:
            if not bench.has_time(60):
                print(f"| torch, {precision} | {batch} | skipped: no time left | | |")
                continue
            pixels = torch.randint(0, 256, (batch, 3, config.size, config.size), dtype=torch.uint8).numpy()
            taken = bench.seconds(lambda p=pixels, r=runtime: r.score(*r.encode(p), rows))  # type: ignore[misc]
            note = ""
            if batch == BATCHES[0]:
                probe = torch.full((1, 3, config.size, config.size), 99, dtype=torch.uint8).numpy()
                logits = runtime.score(*runtime.encode(probe), rows)
                exact = logits if exact is None else exact
                note = f"{abs(logits - exact).max():.2g}"
            print(f"| torch, {precision} | {batch} | {taken:.4f} | {batch / taken:.1f} | {note} |")


def encoder_as_onnx(bench: Bench) -> None:
    """Measure the image graph in onnxruntime, on CUDA where it is available."""
    import onnxruntime

    provider = "CUDAExecutionProvider" if bench.device.startswith("cuda") else "CPUExecutionProvider"
    if provider not in available_providers() or not bench.has_time(150):
        print(f"\nONNX: skipped, {provider} is not in this onnxruntime, or no time is left.")
        return
    network, size = network_of(bench).eval().requires_grad_(False), bench.size.config.size
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "image.onnx")
        export_image_graph(network.encoder, file, size=size)
        session = onnxruntime.InferenceSession(str(file), providers=[provider])
        print(f"\nImage graph in onnxruntime, providers in use: {', '.join(session.get_providers())}")
        for batch in BATCHES:
            pixels = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8).numpy()
            taken = bench.seconds(lambda p=pixels: session.run(None, {"pixels": p}))  # type: ignore[misc]
            print(f"- batch {batch}: {taken:.4f} s, {batch / taken:.1f} photos/s")


def training_step(bench: Bench) -> None:
    """Measure forward with all three losses, backward and AdamW, in bfloat16 by autocast."""
    if not bench.has_time(60):
        print("\nTraining step: skipped, no time is left.")
        return
    size = bench.size
    config = replace(size.config, size=size.trained_at)
    if isinstance(config.backbone, SwinConfig) and size.trained_at % 7 == 0:
        config = replace(config, backbone=replace(config.backbone, window=7))
    torch.manual_seed(0)
    rows = F.normalize(torch.randn(size.tags, size.descriptions, config.width), dim=-1)
    objective = OBJECTIVES["ram-plus"]
    student = Student(TagNetwork(config), FixedQueries(rows, "bf16"), objective, terms_of(objective))
    student.to(bench.device)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-6, weight_decay=0.05)
    shape = (size.batch, 3, size.trained_at, size.trained_at)
    batch = Batch(
        pixels=torch.randint(0, 256, shape, dtype=torch.uint8, device=bench.device),
        tags=(torch.rand(size.batch, size.tags, device=bench.device) < 0.1).float(),
        texts=F.normalize(torch.randn(size.batch, config.width, device=bench.device), dim=-1),
        teacher=torch.randn(size.batch, config.width, device=bench.device),
    )

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(bench.device.split(":")[0], torch.bfloat16):
            loss = student(batch)["loss"]
        loss.backward()
        optimizer.step()

    taken = bench.seconds(step)
    memory = (
        f", peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB" if bench.device.startswith("cuda") else ""
    )
    print(f"\nTraining step, batch {size.batch} at {size.trained_at} pixels: {taken:.3f} s{memory}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small networks, to test this script")
    parser.add_argument("--no-golden", action="store_true", help="skip the golden tests")
    parser.add_argument("--minutes", type=float, default=8.0)
    args = parser.parse_args()
    torch.backends.cudnn.allow_tf32 = False
    bench = Bench(args.device, tiny() if args.tiny else full(), time.monotonic() + 60 * args.minutes)
    name = torch.cuda.get_device_name(args.device) if args.device.startswith("cuda") else args.device
    print(f"{name}, torch {torch.__version__}\n")
    parts = (golden, speed, training_step, encoder_as_onnx)
    for part in parts[1:] if args.no_golden else parts:
        part(bench)


if __name__ == "__main__":
    main()
