"""Cache the outputs of frozen networks for photos: a folder of shards with a key.

Each shard is a folder of arrays that is written atomically, so an interrupted run continues with the first
missing shard. `cache.json` holds the key (model, stage, views and photos); a cache with another key is
rejected.
"""

from __future__ import annotations

import hashlib
import json
import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from anytag._io import atomic_folder, atomic_write, writing
from anytag._typing import Bytes, Ints
from anytag.batching import usable_cores
from anytag.data.rows import Row
from anytag.errors import AnytagError
from anytag.images import Photo, load, prepare
from anytag.torch.training.report import Progress, Reporter

Array = npt.NDArray[Any]
Compute = Callable[[range], Mapping[str, Array]]
"""Indices of a shard's photos -> arrays by name."""
Encoder = Callable[[Bytes], tuple[Mapping[str, Array], Mapping[str, Array]]]
"""Views of a photo, uint8 V×3×S×S -> arrays with V rows, and arrays with one row for the photo, by name."""

SHARD = 256
MIN_AREA = 0.55
KEY = "cache.json"


@dataclass(frozen=True)
class FeatureCache:
    """The memory-mapped arrays of all shards."""

    shards: tuple[Mapping[str, Array], ...]

    def array(self, name: str) -> Array:
        """An array, concatenated over all shards, in memory."""
        return np.concatenate([shard[name] for shard in self.shards])

    def take(self, name: str, rows: Ints) -> Array:
        """Rows of an array."""
        ends = np.cumsum([len(shard[name]) for shard in self.shards])
        which = np.searchsorted(ends, rows, side="right")
        return np.stack(
            [
                self.shards[shard][name][row - (ends[shard - 1] if shard else 0)]
                for shard, row in zip(which.tolist(), rows.tolist(), strict=True)
            ]
        )


def build(
    folder: Path,
    count: int,
    begin: Callable[[], Compute],
    *,
    key: Mapping[str, Any],
    what: str,
    workers: int | None = None,
    report: Reporter,
) -> FeatureCache:
    """Compute the missing shards and open all of them.

    Args:
        count: number of photos.
        begin: creates the function that computes a shard; called once, if a shard is missing.
        key: identity of the arrays: model, stage, views, photos.
        what: description of the work, for progress.
        workers: number of threads; None: one per core.

    Raises:
        AnytagError: the folder has another key, or an error of `begin` and its function.
    """
    _check_key(folder, key)
    starts = range(0, count, SHARD)
    files = [folder / f"shard-{number:04d}" for number in range(len(starts))]

    missing = [number for number, file in enumerate(files) if not file.is_dir()]
    if missing:
        compute = begin()

        def make(number: int) -> int:
            numbers = range(starts[number], min(starts[number] + SHARD, count))
            arrays = compute(numbers)
            with atomic_folder(files[number]) as draft:
                for name, array in arrays.items():
                    np.save(draft / f"{name}.npy", array)
            return numbers.stop

        with ThreadPoolExecutor(workers or usable_cores()) as pool:
            for done in pool.map(make, missing):
                report.progress(Progress(what, done, count, unit="photos"))
    return FeatureCache(tuple(_open(file) for file in files))


def open_cache(folder: Path) -> FeatureCache:
    """Open a cache that `build` has made.

    Raises:
        AnytagError: there is none.
    """
    files = sorted(file for file in folder.glob("shard-*") if file.is_dir())
    if not files:
        raise AnytagError(
            f"{folder} has no cached features; create them with anytag train mini --cache {folder}"
        )
    return FeatureCache(tuple(_open(file) for file in files))


def _check_key(folder: Path, key: Mapping[str, Any]) -> None:
    """Write the key of a new cache, or compare it with that of an existing one."""
    facts, file = json.dumps(key, sort_keys=True), folder / KEY
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        with atomic_write(file) as draft:
            draft.write_text(facts, encoding="utf-8")
    elif file.read_text(encoding="utf-8") != facts:
        raise AnytagError(
            f"{folder} caches features of other photos, other views or another model: give an empty folder"
        )


def _open(shard: Path) -> dict[str, Array]:
    try:
        return {file.stem: np.load(file, mmap_mode="r") for file in sorted(shard.glob("*.npy"))}
    except (OSError, ValueError, EOFError) as error:
        raise AnytagError(f"{shard} is damaged: remove it and run the same command again") from error


def encode_photos(
    folder: Path,
    rows: Sequence[Row],
    root: Path,
    encoder: Callable[[], Encoder],
    views: Callable[[Row, random.Random], Sequence[int]],
    *,
    size: int,
    key: Mapping[str, Any],
    report: Reporter,
) -> FeatureCache:
    """Cache the outputs of an encoder for views of photos.

    The arrays are those of the encoder, "row" and "view" for each view (index of its photo, number of the
    view), and "photo" for each photo (its index). Photos are shuffled once, so each shard is a sample of all
    sources.

    Args:
        encoder: creates the encoder; called once, if a shard is missing.
        views: numbers of the views of a row, as in `view`; its random generator also draws the crops.
        size: side of the square in pixels.
        key: identity of the encoder, model and stage; photos and views are added to it.
    """
    order = list(range(len(rows)))
    random.Random(0).shuffle(order)
    names = "\n".join(f"{row.image}\0{list(views(row, _draw(row)))}" for row in rows)
    photos = hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()

    def compute(encode: Encoder, numbers: range) -> dict[str, Array]:
        parts: dict[str, list[Array]] = {}
        for number in (order[n] for n in numbers):
            row, draw = rows[number], _draw(rows[number])
            which = views(row, draw)
            photo = load(root / row.image, min_side=size)
            each, once = encode(np.stack([view(photo, n, size=size, draw=draw) for n in which]))
            more = {"row": np.full(len(which), number), "view": np.array(which), "photo": np.array([number])}
            for name, array in {**each, **once, **more}.items():
                parts.setdefault(name, []).append(array)
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}

    return build(
        folder,
        len(rows),
        lambda: partial(compute, encoder()),
        key={**key, "photos": photos},
        what="read photos",
        report=report,
    )


def _draw(row: Row) -> random.Random:
    """A random generator seeded with the photo's path, so independent of other photos."""
    return random.Random(zlib.crc32(row.image.encode(errors="surrogateescape")))


def view(photo: Photo, number: int, *, size: int, draw: random.Random) -> Bytes:
    """View `number` of a photo, uint8 3×S×S: 0 the plain photo, 1 its mirror image, others random crops."""
    if number < 2:
        pixels = prepare(photo, size=size)
        return pixels[:, :, ::-1] if number else pixels
    image = Image.fromarray(photo.pixels)
    side = [draw.uniform(MIN_AREA, 1) ** 0.5 for _ in range(2)]
    width, height = (round(full * part) for full, part in zip(image.size, side, strict=True))
    left, top = draw.randint(0, image.width - width), draw.randint(0, image.height - height)
    pixels = prepare(load(image.crop((left, top, left + width, top + height))), size=size)
    return pixels[:, :, ::-1] if draw.random() < 0.5 else pixels
