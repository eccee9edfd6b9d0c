"""Export of all graphs of a published family at full size, random weights: accuracy against torch, and cost.

    python benchmarks/full_graphs.py examples/photos --family ram --work FOLDER

Each step runs in a subprocess. The export itself compares every graph with the network at batch 1 and 3.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import full_size
import measure
import numpy as np
import photos

PRECISIONS = ("float32", "float16", "int8")
TORCH = "torch, float32"
GIVEN = 0.01  # share of tags above the threshold
Facts = dict[str, Any]


def make(family: str, work: Path, pictures: list[Path]) -> Facts:
    """Make the model folder, with thresholds that some tags reach."""
    import torch

    from anytag import Tagger
    from anytag.models.card import Card
    from anytag.models.folder import write_card
    from anytag.torch.checkpoints.convert import Options, convert

    torch.save({"model": full_size.released(family)[0]}, work / "released.pth")
    full_size.write_lists(work)
    folder = work / "float32"
    convert(work / "released.pth", folder, Options(family=family, lists=work))
    (work / "released.pth").unlink()
    tagger = Tagger.load(folder)
    scores = [tag.score for path in pictures for tag in tagger.tag(path, threshold=0).tags]
    tagger.vocabulary.with_thresholds(float(np.quantile(scores, 1 - GIVEN))).write(
        folder / "vocabulary.jsonl"
    )
    write_card(folder, Card.read(folder))
    return {"scores": (min(scores), max(scores))}


def export(precision: str, work: Path, pictures: list[Path]) -> Facts:
    """Export the graphs, or quantize those in float32, and compare them with the network."""
    from anytag.models.card import Card
    from anytag.models.folder import write_card
    from anytag.torch.export.accuracy_cost import measure_cost
    from anytag.torch.export.export_folder import export_folder, quantize_graphs

    folder, start = work / precision, time.process_time()
    if precision == "float32":
        export_folder(folder)
    else:
        shutil.copytree(work / "float32", folder)
        quantize_graphs(folder, [one.name for one in folder.glob("*.onnx")], precision)  # type: ignore[arg-type]
        write_card(folder, Card.read(folder))
    used = time.process_time() - start
    sizes = {one.name: one.stat().st_size for one in folder.glob("*.onnx")}
    return {"cpu": used, "bytes": sizes, **asdict(measure_cost(folder, pictures))}


def caption(way: str, work: Path, picture: Path) -> Facts:
    """Measure the CPU seconds of a caption of 30 wordpieces with three beams, and of single wordpieces."""
    from anytag import Captioner

    folder = work / ("float32" if way == TORCH else way)
    exact = "float32" if way == TORCH else None
    captioner = Captioner.load(folder, device="cpu", threads=1, precision=exact)  # type: ignore[arg-type]
    encoding = captioner.tagger.encode(picture)
    options: Facts = {"beams": 3, "min_length": 30, "max_length": 30}
    words = [f"word{n}" for n in range(9)]
    text = captioner.write([encoding], words, **options)[0].text
    whole = min(
        measure.of_function(lambda: captioner.write([encoding], words, **options)).cpu for _ in range(3)
    )
    ids = np.array([captioner.pieces.prompt(captioner.spec.prompt + text)])
    writer = captioner.writer([encoding], [words])
    _, state = writer.start(ids[:, :2])
    steps = []
    for column in ids.T[2:]:
        start = time.process_time()
        _, state = writer.step(column, state)
        steps.append(time.process_time() - start)
    again = min(measure.of_function(lambda: writer.start(ids)).cpu for _ in range(3))
    return {"caption": whole, "first": median(steps[:8]), "last": median(steps[-8:]), "again": again}


def report(found: dict[str, Facts]) -> str:
    """Return the tables as Markdown."""
    lines = [
        "| graphs | MB | largest logit difference | tags that flip | in captions | captions that change |"
    ]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for precision in PRECISIONS:
        facts = found[f"export {precision}"]
        captions = facts["captions"]
        megabytes = " + ".join(f"{facts['bytes'][one] / 1e6:.0f}" for one in sorted(facts["bytes"]))
        flips = f"{facts['flips']:.2%} of {facts['given']}"
        changed = f"{captions['largest']:.1e} | {captions['changed']:.0%} of {captions['photos']}"
        lines.append(f"| {precision} | {megabytes} | {facts['largest']:.1e} | {flips} | {changed} |")
    lines += [
        "",
        "| captions by | CPU s per caption | ms per wordpiece, early | late | start with the whole text |",
    ]
    lines.append("|---|---:|---:|---:|---:|")
    for way in (TORCH, *PRECISIONS):
        facts = found[f"caption {way}"]
        shown = " | ".join(f"{1000 * facts[one]:.0f}" for one in ("first", "last", "again"))
        lines.append(f"| {way} | {facts['caption']:.2f} | {shown} |")
    graphs = ", ".join(sorted(found["export float32"]["bytes"]))
    lines += [
        "",
        f"Graphs: {graphs}; exported and compared in {found['export float32']['cpu']:.0f} CPU s.",
        "",
    ]
    return "\n".join([*lines, f"{measure.machine()}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("photos", type=Path, help="folder of photos")
    parser.add_argument("--family", choices=("tag2text", "ram"), default="ram")
    parser.add_argument(
        "--work", type=Path, required=True, help="a folder that does not exist yet; removed at the end"
    )
    parser.add_argument("--count", type=int, default=3, help="photos [3]")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    args = parser.parse_args()
    pictures = photos.in_folder(args.photos)[: args.count]
    steps: dict[str, Callable[[], Facts]] = {"make": lambda: make(args.family, args.work, pictures)}
    for one in PRECISIONS:
        steps[f"export {one}"] = lambda one=one: export(one, args.work, pictures)  # type: ignore[misc]
    for one in (TORCH, *PRECISIONS):
        steps[f"caption {one}"] = lambda one=one: caption(one, args.work, pictures[0])  # type: ignore[misc]
    if args.step:
        print(json.dumps(steps[args.step]()))
        return
    args.work.mkdir(parents=True)
    try:
        found = {step: _child(step) for step in steps}
    finally:
        shutil.rmtree(args.work)
    print(report(found))


def _child(step: str) -> Facts:
    command = [sys.executable, *sys.argv, "--step", step]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    print(f"{step}: {output.strip()}", file=sys.stderr)
    facts: Facts = json.loads(output.splitlines()[-1])
    return facts


if __name__ == "__main__":
    main()
