"""What frozen networks make of photos, computed once and kept: a folder of shards, and what they are made of.

Each shard is a folder of arrays that appears whole or not at all, so that what is killed goes on with the
first missing one. `cache.json` says which model, stage, views and photos the shards are of; another run's are
refused.
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
"""Numbers of a shard's photos -> arrays by name."""
Encoder = Callable[[Bytes], tuple[Mapping[str, Array], Mapping[str, Array]]]
"""uint8 V×3×S×S, the views of a photo -> arrays of V rows, and arrays of a row for the photo, by name."""

SHARD = 256
MIN_AREA = 0.55
KEY = "cache.json"


@dataclass(frozen=True)
class FeatureCache:
    """The arrays of all shards, mapped: nothing is read before it is asked for."""

    shards: tuple[Mapping[str, Array], ...]

    def whole(self, name: str) -> Array:
        """An array, all shards behind each other, in memory."""
        return np.concatenate([shard[name] for shard in self.shards])

    def take(self, name: str, rows: Ints) -> Array:
        """Some rows of it."""
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
    """Computes every missing shard, and opens them all.

    Args:
        count: photos.
        begin: makes what computes a shard, once, where one is missing.
        key: what the arrays are made of: model, stage, views, photos.
        what: is done, for progress.
        workers: threads; as many as there are cores when None.

    Raises:
        AnytagError: the folder is of something else, or what `begin` and its work raise.
    """
    _claim(folder, key)
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
    """What `build` has made there.

    Raises:
        AnytagError: nothing.
    """
    files = sorted(file for file in folder.glob("shard-*") if file.is_dir())
    if not files:
        raise AnytagError(f"{folder}: no cached features; anytag train mini --cache {folder} makes them")
    return FeatureCache(tuple(_open(file) for file in files))


def _claim(folder: Path, key: Mapping[str, Any]) -> None:
    """Notes what the shards of a folder are made of, before the first."""
    facts, file = json.dumps(key, sort_keys=True), folder / KEY
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        with atomic_write(file) as draft:
            draft.write_text(facts, encoding="utf-8")
    elif file.read_text(encoding="utf-8") != facts:
        raise AnytagError(
            f"{folder} holds what was made of other photos, of other views or by another model: name an "
            "empty folder"
        )


def _open(shard: Path) -> dict[str, Array]:
    try:
        return {file.stem: np.load(file, mmap_mode="r") for file in sorted(shard.glob("*.npy"))}
    except (OSError, ValueError, EOFError) as error:
        raise AnytagError(f"{shard} is damaged: remove it, and the same command makes it again") from error


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
    """What an encoder makes of views of photos: its arrays, and "row", "view" of each view, "photo" of each.

    Photos are shuffled once, so each shard is a sample of all sources.

    Args:
        encoder: makes it, once, where photos are missing.
        views: numbers of the views of a row, for `view`; more of the same draws decide random crops.
        size: side of the square.
        key: of the encoder, its model and stage; that of photos and views is added.
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
    """Of a photo's own: the same whatever others there are."""
    return random.Random(zlib.crc32(row.image.encode(errors="surrogateescape")))


def view(photo: Photo, number: int, *, size: int, draw: random.Random) -> Bytes:
    """View `number` of a photo as uint8 3×S×S: 0 plain, 1 mirrored, else a random crop."""
    if number < 2:
        pixels = prepare(photo, size=size)
        return pixels[:, :, ::-1] if number else pixels
    image = Image.fromarray(photo.pixels)
    side = [draw.uniform(MIN_AREA, 1) ** 0.5 for _ in range(2)]
    width, height = (round(full * part) for full, part in zip(image.size, side, strict=True))
    left, top = draw.randint(0, image.width - width), draw.randint(0, image.height - height)
    pixels = prepare(load(image.crop((left, top, left + width, top + height))), size=size)
    return pixels[:, :, ::-1] if draw.random() < 0.5 else pixels
