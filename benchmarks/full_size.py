"""A checkpoint of published size with random weights: converted, loaded, run on one photo, converted back.

    python benchmarks/full_size.py --family ram-plus --work FOLDER

Each step runs in a subprocess, so that its peak memory is measured separately. The checkpoint has every
tensor of the published file (`tests/torch/checkpoints/test_checkpoints.py` checks the shapes against the
manifests) and the optimizer's state, as training writes it: 7 GB of disk for RAM++.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

TAGS = {"tag2text": 3429, "ram": 4585, "ram-plus": 4585}
DESCRIPTIONS = {"ram-plus": 51}
PRECISIONS = ("float32", "float16")
PHOTO = Path(__file__).resolve().parents[1] / "examples" / "photos" / "cat.jpg"
Facts = dict[str, Any]


def make(family: str, work: Path) -> Facts:
    """Write the checkpoint and the lists it needs."""
    import torch

    tensors, learned = released(family)
    moments = ("exp_avg", "exp_avg_sq")
    state = {n: {name: torch.zeros_like(one) for name in moments} for n, one in enumerate(learned)}
    torch.save({"model": tensors, "optimizer": {"state": state}, "epoch": 1}, work / "released.pth")
    write_lists(work)
    return {"tensors": len(tensors), "file_bytes": (work / "released.pth").stat().st_size}


def released(family: str) -> tuple[Facts, list[Any]]:
    """Return every tensor of the published file by name, with random weights; and the trained ones."""
    import torch

    from anytag.torch.checkpoints.verify import plan
    from anytag.torch.nn.configs import FAMILIES

    wanted = plan(family, FAMILIES[family], rows=TAGS[family] * DESCRIPTIONS.get(family, 1))
    random = torch.Generator().manual_seed(0)
    tensors = {name: _random(name, wanted.shapes[name], random) for name in wanted.loaded}
    learned = [tensor for name, tensor in tensors.items() if name != "label_embed"]
    tensors |= {name: tensors[first] for name, first in wanted.tied.items()}
    tensors |= wanted.derived
    return tensors, learned


def _random(name: str, shape: tuple[int, ...], random: Any) -> Any:
    """Return weights that preserve the size of signals, so that logits differ from each other."""
    import torch

    if "norm" in name.lower() and name.endswith("weight"):
        return torch.ones(shape)
    fan_in = math.prod(shape[1:]) if len(shape) > 1 else 10_000
    return torch.randn(shape, generator=random) * fan_in**-0.5


def write_lists(work: Path) -> None:
    names = [f"tag {number}" for number in range(4585)]
    texts = {
        "ram_tag_list.txt": names,
        "ram_tag_list_threshold.txt": ["0.68"] * len(names),
        "tag2text_ori_tag_list.txt": names[: TAGS["tag2text"]],
        "vocab.txt": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"word{n}" for n in range(30518))],
    }
    for name, lines in texts.items():
        (work / name).write_text("\n".join(lines), encoding="utf-8")


def convert(family: str, work: Path, precision: str) -> Facts:
    from anytag.torch.checkpoints.convert import Options
    from anytag.torch.checkpoints.convert import convert as run

    options = Options(family=family, lists=work, precision="float16" if precision == "float16" else "float32")
    done, facts = _used(lambda: run(work / "released.pth", work / precision, options))
    size = sum(path.stat().st_size for path in (work / precision).rglob("*") if path.is_file())
    return {**facts, "folder_bytes": size, "loaded": done.loaded, "tied": done.tied, "derived": done.derived}


def run(family: str, work: Path, precision: str) -> Facts:
    """Load the folder and score one photo with all tags."""
    import numpy as np
    import torch

    from anytag.images import load, prepare
    from anytag.torch.checkpoints.load import load_network, load_queries

    network, loading = _used(lambda: load_network(work / precision, captions=False))
    rows = load_queries(work / precision)[None].float()
    photo = torch.from_numpy(prepare(load(PHOTO), size=network.config.size))[None]
    with torch.inference_mode():
        logits, scoring = _used(lambda: network(photo, rows))
    np.save(work / f"{precision}.npy", logits.numpy())
    scoring["before_bytes"] = loading["before_bytes"]  # the peak of both
    return {"load": loading, "score": scoring}


def back(family: str, work: Path) -> Facts:
    from anytag.torch.checkpoints.convert import convert_back

    count, facts = _used(lambda: convert_back(work / "float32", work / "back.pth"))
    return {**facts, "tensors": count}


def compare(family: str, work: Path) -> Facts:
    """Count the tensors changed by converting there and back, and measure what float16 does to logits."""
    import numpy as np
    import torch

    files = [work / "released.pth", work / "back.pth"]
    first, second = (torch.load(file, mmap=True, weights_only=True)["model"] for file in files)
    changed = [name for name in first if name not in second or not torch.equal(first[name], second[name])]
    full, half = (np.load(work / f"{precision}.npy") for precision in PRECISIONS)
    return {
        "changed": len(changed) + len(set(second) - set(first)),
        "logits_distance": float(np.abs(full - half).max()),
        "logits_spread": float(full.max() - full.min()),
    }


def _used(work: Callable[[], Any]) -> tuple[Any, Facts]:
    """Return a call's result, and its time and memory (the latter above what the process had before)."""
    before, cpu, wall = _peak(), time.process_time(), time.perf_counter()
    result = work()
    return result, {
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.perf_counter() - wall,
        "before_bytes": before,
        "peak_bytes": _peak(),
    }


def _peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def report(found: dict[str, Facts]) -> str:
    """Return the table as Markdown."""
    kept = {one: found[f"convert {one}"]["folder_bytes"] for one in PRECISIONS}
    rows = [f"| checkpoint with the optimizer's state, {found['make']['tensors']} tensors | "
            f"{found['make']['file_bytes'] / 1e9:.2f} GB | | | |"]  # fmt: skip
    for precision in PRECISIONS:
        facts = found[f"convert {precision}"]
        rows.append(_row(f"converted to {precision}", facts, size=kept[precision], kept=kept[precision]))
    for precision in PRECISIONS:
        facts = found[f"run {precision}"]
        rows.append(_row(f"{precision} folder verified and loaded", facts["load"], kept=kept[precision]))
        rows.append(_row(f"{precision}: one photo, all tags", facts["score"], kept=kept[precision]))
    rows.append(_row("converted back", found["back"], kept=kept["float32"]))
    head = "| | size | CPU s | wall s | peak above imports, and over the folder's size |"
    last = found["compare"]
    return "\n".join([
        head, "|---|---:|---:|---:|---:|", *rows, "",
        f"Tensors changed by converting there and back: {last['changed']}. Largest difference of a logit "
        f"by float16 weights: {last['logits_distance']:.1e} (all lie within {last['logits_spread']:.3f}).",
    ])  # fmt: skip


def _row(what: str, facts: Facts, *, kept: int, size: int | None = None) -> str:
    above = facts["peak_bytes"] - facts["before_bytes"]
    shown = "" if size is None else f"{size / 1e9:.2f} GB"
    memory = f"{above / 1e9:.2f} GB, {above / kept:.2f}"
    return f"| {what} | {shown} | {facts['cpu_s']:.1f} | {facts['wall_s']:.1f} | {memory} |"


STEPS: dict[str, Callable[[str, Path], Facts]] = {
    "make": make,
    **{f"convert {one}": partial(convert, precision=one) for one in PRECISIONS},
    **{f"run {one}": partial(run, precision=one) for one in PRECISIONS},
    "back": back,
    "compare": compare,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=TAGS, default="ram-plus")
    parser.add_argument(
        "--work", type=Path, required=True, help="a folder that does not exist yet; removed at the end"
    )
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        print(json.dumps(STEPS[args.step](args.family, args.work)))
        return
    args.work.mkdir(parents=True)
    try:
        found = {step: _child(step, args.family, args.work) for step in STEPS}
    finally:
        shutil.rmtree(args.work)
    print(report(found))


def _child(step: str, family: str, work: Path) -> Facts:
    command = [sys.executable, __file__, "--family", family, "--work", str(work), "--step", step]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    print(f"{step}: {output.strip()}", file=sys.stderr)
    facts: Facts = json.loads(output.splitlines()[-1])
    return facts


if __name__ == "__main__":
    main()
