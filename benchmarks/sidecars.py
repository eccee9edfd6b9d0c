"""Sidecars and embedded tags per second, beside what exiftool alone does with the same files, in one run.

    python benchmarks/sidecars.py --photos 1000 --embedded 300

`exiftool alone` is a process of the same kind that only gets the writing command, one per photo: new sidecars
from nothing, three fields with the same words. `write_keywords` also reads the photo and its sidecars, keeps
a record, and replaces each file atomically. The two alternate, 25 photos each. Printed are the photos per
second of the median turn and of the best one; then the CPU time per photo of Python and exiftool together,
which other work on the machine disturbs less.
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
from statistics import median

import numpy as np
from PIL import Image

from anytag.metadata import ExifTool, read_keywords, undo, write_keywords
from anytag.metadata.read import TAGS

TURN = 25
WORDS = [("animal",), ("animal", "dog"), ("plant", "grass"), ("red",), ("ball",), ("park",)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--embedded", type=int, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        photos = made(Path(name), options.photos)
        rates(photos, {
            "exiftool alone, new sidecars": alone(Path(name) / "alone"),
            "new sidecars": lambda photo: write_keywords(photo, WORDS),
        })  # fmt: skip
        before = stamps(photos)
        rates(photos, {"second run, nothing changes": lambda photo: write_keywords(photo, WORDS)})
        assert stamps(photos) == before, "the second run changed a file"
        more = [*WORDS, ("sky",)]
        rates(photos, {"existing sidecars, one more word": lambda photo: write_keywords(photo, more)})
        rates(photos, {"keywords read": lambda photo: list(read_keywords([photo]))})
        rates(photos, {"undo": undo})
        assert not list(Path(name).glob("photos/*.xmp")), "undo left a sidecar"
        few = photos[: options.embedded]
        rates(few, {"embedded in JPEGs": lambda photo: write_keywords(photo, WORDS, embed=True)})


def made(folder: Path, count: int) -> list[Path]:
    """Make copies of one JPEG of about 34 kB that has keywords of its own in IPTC."""
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
    """Return exiftool's own writing of the same words into a new sidecar."""
    tool = ExifTool()
    paths = {"Subject": [word[-1] for word in WORDS], "TagsList": ["/".join(word) for word in WORDS]}
    paths["HierarchicalSubject"] = ["|".join(word) for word in WORDS]
    words = [f"-{TAGS[name]}={one}" for name, all_ in paths.items() for one in all_]  # type: ignore[index]
    return lambda photo: tool.run(*words, "-o", str(folder / f"{photo.name}.xmp"))


def rates(photos: Sequence[Path], works: dict[str, Callable[[Path], object]]) -> None:
    """Print the photos per second of each of the works, which alternate."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    busy = dict.fromkeys(works, 0.0)
    for at in range(0, len(photos), TURN):
        turn = photos[at : at + TURN]
        for name, work in works.items():
            start, before = time.perf_counter(), cpu()
            for photo in turn:
                work(photo)
            seconds[name].append((time.perf_counter() - start) / len(turn))
            busy[name] += cpu() - before
    for name, turns in seconds.items():
        rate = f"{1 / median(turns):6.0f} {1 / min(turns):6.0f} per second"
        print(f"{name:40} {rate} {1000 * busy[name] / len(photos):6.2f} ms", flush=True)


def cpu() -> float:
    """Return the CPU seconds of this process and its children, on Linux."""
    total = time.process_time()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == os.getpid():
                total += int(stat.with_name("schedstat").read_text().split()[0]) / 1e9
    return total


def stamps(photos: Sequence[Path]) -> list[tuple[int, int]]:
    files = [path for photo in photos for path in (photo, photo.with_name(photo.name + ".xmp"))]
    return [(path.stat().st_mtime_ns, path.stat().st_size) for path in files]


if __name__ == "__main__":
    main()
