"""Cache the outputs of frozen networks for photos: a folder of shards with a key.

Each shard is a folder of arrays that is written atomically, so an interrupted run continues with the first
missing shard. `cache.json` holds the key (model, stage, views and names of photos), and each shard size and
time of its photos; a cache with another key or of changed photos is rejected.
"""

from __future__ import annotations

import hashlib
import json
import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
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
from anytag.errors import AnytagError, OutputError
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
GONE = (-1, -1)


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
    view), and "photo" and "file" for each photo (its index; its size and time). Photos are shuffled once, so
    each shard is a sample of all sources.

    Args:
        encoder: creates the encoder; called once, if a shard is missing.
        views: numbers of the views of a row, as in `view`; its random generator also draws the crops.
        size: side of the square in pixels.
        key: identity of the encoder, model and stage; photos and views are added to it.

    Raises:
        AnytagError: the folder has features of other photos, views or models, or a photo cannot be read.
    """
    order = list(range(len(rows)))
    random.Random(0).shuffle(order)
    names = "\n".join(f"{row.image}\0{list(views(row, _draw(row)))}" for row in rows)
    photos = hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()

    def compute(encode: Encoder, numbers: range) -> dict[str, Array]:
        parts: dict[str, list[Array]] = {}
        for number in (order[n] for n in numbers):
            row, draw = rows[number], _draw(rows[number])
            which, file = views(row, draw), _facts(root / row.image)
            photo = load(root / row.image, min_side=size)
            each, once = encode(np.stack([view(photo, n, size=size, draw=draw) for n in which]))
            per_view = {"row": np.full(len(which), number), "view": np.array(which)}
            per_photo = {"photo": np.array([number]), "file": np.array([file])}
            for name, array in {**each, **once, **per_view, **per_photo}.items():
                parts.setdefault(name, []).append(array)
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}

    whole = {**key, "photos": photos}
    _check_key(folder, whole)
    _check_photos(folder, [root / row.image for row in rows])
    return build(
        folder,
        len(rows),
        lambda: partial(compute, encoder()),
        key=whole,
        what="read photos",
        report=report,
    )


def _check_photos(folder: Path, paths: Sequence[Path]) -> None:
    """Check that no photo has changed since it was cached; photos that are gone are not compared."""
    changed: dict[str, Path] = {}
    for shard in sorted(folder.glob("shard-*")):
        arrays = _open(shard)
        photos = [paths[number] for number in arrays["photo"].tolist()]
        now = np.array([_facts(path) for path in photos])
        exist = (now != GONE).any(1)
        if "file" in arrays:
            other = np.flatnonzero(exist & (now != arrays["file"]).any(1))
            if len(other):
                changed[shard.name] = photos[other[0]]
        elif exist.all():  # made by an older version, which did not record them
            with suppress(OutputError), atomic_write(shard / "file.npy") as draft, draft.open("wb") as file:
                np.save(file, now)
    if changed:
        raise AnytagError(
            f"{folder} caches features of other photos: {next(iter(changed.values()))} has changed since; "
            f"give an empty folder, or remove {', '.join(changed)} in it to read their photos again"
        )


def _facts(path: Path) -> tuple[int, int]:
    """Size and time of a photo; GONE if it does not exist."""
    try:
        facts = path.stat()
    except OSError:
        return GONE
    return facts.st_size, facts.st_mtime_ns


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
