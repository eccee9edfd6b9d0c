"""How long a run from photos takes to its first batch, and what its rows take of memory and disk.

    python benchmarks/training_start.py --rows 1000000 --folder WORK

Rows are made up: a caption of ten words each, of photos of which there are 64 files. They are read and parsed
once, as the first start of a run does; then fresh processes start with what is stored. With `--distinct` the
captions repeat after so many rows, and only those are parsed: the others' labels are copies.
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
    parser.add_argument("--start", action="store_true", help="only start, and say how long it took, as JSON")
    given = parser.parse_args()
    os.environ["ANYTAG_HOME"] = str(given.folder / "home")
    data = given.folder / f"rows-{given.rows}.jsonl"
    if given.start:
        print(json.dumps(start(data, given.rows)))
        return
    distinct = given.distinct or given.rows
    write(data, given.rows, distinct=distinct)
    if distinct < given.rows:
        annotation_store._label_chunks = partial(copies, distinct=distinct)
    begun = time.perf_counter()
    rows = Annotations.cached(data)
    read = time.perf_counter() - begun
    rows.labels(vocabulary())
    parsed = time.perf_counter() - begun - read
    size = sum(file.stat().st_size for file in store_folder().rglob("*") if file.is_file())
    again = [sys.executable, __file__, "--start", "--rows", str(given.rows), "--folder", str(given.folder)]
    for _ in range(2):  # the second with what the first has left in the page cache
        said = json.loads(subprocess.run(again, check=True, capture_output=True, text=True).stdout)
    print(f"rows                       {given.rows:,} ({data.stat().st_size / 1e9:.2f} GB)")
    print(f"once: rows read            {read:.1f} s")
    print(f"once: captions parsed      {parsed:.1f} s for {distinct:,} of them, {usable_cores()} cores")
    print(f"stored                     {size / 1e9:.2f} GB")
    print(f"a start: rows at hand      {said['open']:.2f} s")
    print(f"a start: first batch       {said['batch']:.2f} s")
    print(f"resumed in an epoch        {said['resumed']:.2f} s")
    print(f"memory of the process      {said['anonymous']:.0f} MB of its own more than before")


def start(data: Path, rows: int) -> dict[str, float]:
    """Seconds until rows, the first batch, and one in the middle of an epoch are there; MB."""
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
    """The labels of the first rows again and again."""
    first = replace(rows, ends=rows.ends[:distinct], held=rows.held[:distinct])
    parts = list(PARTS(first, tags))
    for _ in range(len(rows) // distinct):
        yield from parts


def anonymous() -> float:
    """MB of this process that are not mapped files."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def vocabulary() -> Vocabulary:
    """As many tags as RAM has."""
    kinds = default_lexicon().kinds["object"]
    return Vocabulary(Tag(name, name, "object") for name in sorted(kinds)[:: len(kinds) // TAGS][:TAGS])


def write(data: Path, rows: int, *, distinct: int) -> None:
    """The rows, and the photos that they name."""
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
