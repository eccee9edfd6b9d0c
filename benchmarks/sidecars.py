"""Sidecars and embedded tags a second, beside what exiftool alone does with the same files, in one run.

    python benchmarks/sidecars.py --photos 1000 --embedded 300

`exiftool alone` is a process of the same kind that is sent the writing command only, one a photo: new
sidecars from nothing, three fields of the same words. `write_keywords` reads the photo and its sidecars
besides, keeps a record, and puts each file in place whole. The second column is time of the processor,
Python's and exiftool's together, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from anytag.metadata import ExifTool, read_keywords, undo, write_keywords
from anytag.metadata.read import TAGS

WORDS = [("animal",), ("animal", "dog"), ("plant", "grass"), ("red",), ("ball",), ("park",)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--embedded", type=int, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        photos = made(Path(name), options.photos)
        floor = rate("exiftool alone, new sidecars", photos, alone(Path(name) / "alone"))
        new = rate("new sidecars", photos, lambda photo: write_keywords(photo, WORDS))
        before = stamps(photos)
        rate("second run, nothing changes", photos, lambda photo: write_keywords(photo, WORDS))
        assert stamps(photos) == before, "the second run changed a file"
        rate(
            "sidecars that are there, one word more",
            photos,
            lambda photo: write_keywords(photo, [*WORDS, "sky"]),
        )
        rate("keywords read", photos, lambda photo: list(read_keywords([photo])))
        rate("undo", photos, undo)
        assert not list(Path(name).glob("photos/*.xmp")), "undo left a sidecar"
        few = photos[: options.embedded]
        rate("embedded in JPEGs", few, lambda photo: write_keywords(photo, WORDS, embed=True))
        print(f"new sidecars / exiftool alone, by CPU: {new / floor:.2f}")


def made(folder: Path, count: int) -> list[Path]:
    """Copies of one JPEG of about 34 kB that has keywords of its own in IPTC."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    first = folder / "photos" / "000000.jpg"
    first.parent.mkdir()
    (folder / "alone").mkdir()
    Image.fromarray(noise).resize((640, 480)).save(first, quality=88)
    tool = ExifTool()
    tool.run("-overwrite_original", "-IPTC:Keywords=mine", "-IPTC:Keywords=München", str(first))
    tool.close()
    return [first, *(Path(shutil.copy(first, first.with_name(f"{i:06}.jpg"))) for i in range(1, count))]


def alone(folder: Path) -> Callable[[Path], object]:
    """exiftool's own writing of the same words into a new sidecar."""
    tool = ExifTool()
    paths = {"Subject": [word[-1] for word in WORDS], "TagsList": ["/".join(word) for word in WORDS]}
    paths["HierarchicalSubject"] = ["|".join(word) for word in WORDS]
    words = [f"-{TAGS[name]}={one}" for name, all_ in paths.items() for one in all_]  # type: ignore[index]
    return lambda photo: tool.run(*words, "-o", str(folder / f"{photo.name}.xmp"))


def rate(what: str, photos: Sequence[Path], work: Callable[[Path], object]) -> float:
    """Photos a second of the processor, once the process runs."""
    work(photos[0])
    start, busy = time.perf_counter(), cpu()
    for photo in photos[1:]:
        work(photo)
    speed = (len(photos) - 1) / (time.perf_counter() - start)
    busy = (cpu() - busy) / (len(photos) - 1)
    print(f"{what:40} {speed:7.0f} a second {1000 * busy:7.2f} ms of CPU", flush=True)
    return 1 / busy


def cpu() -> float:
    """Seconds that this process and its children have been computing."""
    total = time.process_time()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == os.getpid():
                total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def stamps(photos: Sequence[Path]) -> list[tuple[int, int]]:
    files = [path for photo in photos for path in (photo, photo.with_name(photo.name + ".xmp"))]
    return [(path.stat().st_mtime_ns, path.stat().st_size) for path in files]


if __name__ == "__main__":
    main()
