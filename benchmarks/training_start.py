"""Time from the start of a run on photos to its first batch, and the memory and disk that its rows use.

    python benchmarks/training_start.py --rows 1000000 --folder WORK

Rows are synthetic: a caption of ten words each, for 64 photo files. They are read and parsed once, as the
first start of a run does; then new processes start with what is stored. With `--distinct` the captions repeat
after so
many rows, and only those are parsed: the labels of the others are copies.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anytag.batching import usable_cores
from anytag.parsing.lexicon import default_lexicon
from anytag.torch.training import annotation_store
from anytag.torch.training.annotation_store import Annotations, store_folder
from anytag.torch.training.photo_dataset import PhotoDataset, Photos
from anytag.vocabulary import Tag, Vocabulary

PHOTOS, TAGS, BATCH = 64, 4585, 64
PARTS = annotation_store._label_chunks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--distinct", type=int, default=0, help="rows, a multiple of 5,000; all when 0")
    parser.add_argument("--folder", type=Path, default=Path("work/training_start"))
    parser.add_argument("--start", action="store_true", help="only start, and print its times as JSON")
    args = parser.parse_args()
    os.environ["ANYTAG_HOME"] = str(args.folder / "home")
    data = args.folder / f"rows-{args.rows}.jsonl"
    if args.start:
        print(json.dumps(start(data, args.rows)))
        return
    distinct = args.distinct or args.rows
    write(data, args.rows, distinct=distinct)
    if distinct < args.rows:
        annotation_store._label_chunks = partial(copies, distinct=distinct)
    begun = time.perf_counter()
    rows = Annotations.cached(data)
    read = time.perf_counter() - begun
    rows.labels(vocabulary())
    parsed = time.perf_counter() - begun - read
    size = sum(file.stat().st_size for file in store_folder().rglob("*") if file.is_file())
    again = [sys.executable, __file__, "--start", "--rows", str(args.rows), "--folder", str(args.folder)]
    for _ in range(2):  # the second uses the page cache of the first
        times = json.loads(subprocess.run(again, check=True, capture_output=True, text=True).stdout)
    print(f"rows                       {args.rows:,} ({data.stat().st_size / 1e9:.2f} GB)")
    print(f"once: rows read            {read:.1f} s")
    print(f"once: captions parsed      {parsed:.1f} s for {distinct:,} of them, {usable_cores()} cores")
    print(f"stored                     {size / 1e9:.2f} GB")
    print(f"a start: rows opened       {times['open']:.2f} s")
    print(f"a start: first batch       {times['batch']:.2f} s")
    print(f"resumed in an epoch        {times['resumed']:.2f} s")
    print(f"memory of the process      {times['anonymous']:.0f} MB more private memory than before")


def start(data: Path, rows: int) -> dict[str, float]:
    """Measure the seconds until the rows, the first batch, and one in mid-epoch are ready; and MB."""
    tags, before, begun = vocabulary(), anonymous(), time.perf_counter()
    photos = Photos(Annotations.cached(data), data.parent, tags)
    opened = time.perf_counter() - begun
    corpus = PhotoDataset(photos, size=224, batch_size=BATCH, seed=1)
    next(corpus.stream(0, 1_000_000))
    batch = time.perf_counter() - begun
    next(corpus.stream(rows // BATCH * 3 // 2, 2_000_000))
    resumed = time.perf_counter() - begun - batch
    return {"open": opened, "batch": batch, "resumed": resumed, "anonymous": anonymous() - before}


def copies(rows: Annotations, tags: Vocabulary, *, distinct: int) -> Iterator[Any]:
    """Repeat the labels of the first rows."""
    first = replace(rows, ends=rows.ends[:distinct], held=rows.held[:distinct])
    parts = list(PARTS(first, tags))
    for _ in range(len(rows) // distinct):
        yield from parts


def anonymous() -> float:
    """Return the memory of this process in MB without mapped files."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def vocabulary() -> Vocabulary:
    """Return as many tags as RAM has."""
    kinds = default_lexicon().kinds["object"]
    return Vocabulary(Tag(name, name, "object") for name in sorted(kinds)[:: len(kinds) // TAGS][:TAGS])


def write(data: Path, rows: int, *, distinct: int) -> None:
    """Write the rows, and the photos that they name."""
    if data.exists():
        return
    data.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0)
    for number in range(PHOTOS):
        pixels = noise.integers(0, 256, (240, 320, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(data.parent / f"{number}.jpg")
    names = [tag.name for tag in vocabulary()]
    with data.open("w", encoding="utf-8") as file:
        for number in range(rows):
            if number % distinct == 0:
                draw = random.Random(0)
            one, other = draw.choice(names), draw.choice(names)
            caption = f"a photo of a {one} beside a large {other} number {number % distinct}"
            image = f"{number % PHOTOS}.jpg"
            row = {"image": image, "source": "made up", "split": "train", "captions": [caption]}
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
