"""Makes photos of a given size from other photos."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

QUALITY = 85
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def in_folder(folder: Path) -> list[Path]:
    """Return the photos directly in a folder, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def make(
    sources: Sequence[Path], folder: Path, *, size: tuple[int, int], count: int, grain: float = 0
) -> list[Path]:
    """Make JPEGs of `size`: each source cropped to the aspect ratio and resized, repeated as often as needed.

    Args:
        sources: photos of any size.
        folder: is created.
        size: width and height.
        count: how many files; those beyond the sources are hard links to the first.
        grain: standard deviation of noise that is added to each pixel's brightness, in levels of 255;
            without it enlarged photos are smooth and decode too fast.
    """
    folder.mkdir()
    random = np.random.default_rng(0)
    paths = [folder / f"{i:05}.jpg" for i in range(count)]
    for path, source in zip(paths, sources, strict=False):
        with Image.open(source) as opened:
            picture = ImageOps.fit(opened.convert("RGB"), size, Image.Resampling.LANCZOS)
        if grain:
            noise = random.normal(0, grain, (size[1], size[0], 1)).astype(np.float32)
            picture = Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))
        picture.save(path, quality=QUALITY)
    for i in range(len(sources), count):
        os.link(paths[i % len(sources)], paths[i])
    return paths


def mean_kilobytes(paths: Sequence[Path]) -> float:
    """Return the mean size of files in kB."""
    return sum(path.stat().st_size for path in paths) / len(paths) / 1000
