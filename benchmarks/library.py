"""Costs of a library of many photos, each beside its reference.

    python benchmarks/library.py FOLDER [--many 100000] [--few 1000] [--tagged 2000] [--part NAME ...]

FOLDER is created and filled with synthetic JPEGs, once. The parts:

    first      `anytag library sync` beside `anytag tag --format jsonl` on the same TAGGED photos of 640×480,
               alternating, three rounds; the embedded model
    thumbnails a first sync of TAGGED photos of 640×480, and of a fifth as many of 12 megapixels, with and
               without thumbnails, alternating, three rounds; the embedded model
    unchanged  a second sync of MANY photos: seconds, photos that were opened (counted by an audit hook),
               whether the database was written
    memory     peak of the first sync of MANY photos minus that of FEW, and the same of the second sync
    moves      a tenth of MANY moved to other folders, a hundredth renamed in upper case, chmod of all, a
               hundredth touched: the counts, of which "tagged" is what the network processed
    kills      20 kills at random moments of a sync of FEW photos in batches of 8: the photos that each lost,
               and whether the rows equal those of a run without kills

Where the network does not matter (all but the first two), a model of random weights and a few kilobytes is
used: tests/tiny.py.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from measure import Use, alternately, arguments, middle, of_command, ratio, report
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

PYTHON = [sys.executable, "-m", "anytag"]
_PER_FOLDER = 1000  # photos
_MEGA = 1 << 20

_COUNTED = """
import sys
opened = 0
def count(event, arguments):
    global opened
    opened += event == "open" and str(arguments[0]).endswith(".jpg")
sys.addaudithook(count)
from anytag.cli import main
try:
    main({arguments!r})
finally:
    print("opened", opened, file=sys.stderr)
"""


def make_photos(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """Make photos that all differ, a thousand per folder; existing ones stay."""
    noise = np.random.default_rng(0).integers(0, 255, (size[1] // 16, size[0] // 16, 3), np.uint8)
    base = np.asarray(Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC))
    for number in range(count):
        path = folder / f"{number // _PER_FOLDER:04d}" / f"img_{number:06d}.jpg"
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = base.copy()
        for place, digit in enumerate(f"{number:06d}"):
            pixels[:16, place * 8 : place * 8 + 8] = int(digit) * 25
        Image.fromarray(pixels).save(path, quality=85)
    return folder


class Bench:
    """The folders, and the numbers of photos."""

    def __init__(self, place: Path, *, many: int, few: int, tagged: int) -> None:
        from tests.tiny import make_tiny_model

        self.place, self.many, self.few, self.tagged = place, many, few, tagged
        place.mkdir(parents=True, exist_ok=True)
        self.tiny = make_tiny_model(place / "tiny", size=224)  # decodes photos as `mini` does
        self.output = place / "output.txt"

    def sync(self, photos: Path, database: Path, *options: str, tiny: bool = True) -> Use:
        """Run `anytag library sync` in a subprocess."""
        model = ["--model", str(self.tiny)] if tiny else []
        command = ["library", "sync", str(photos), "--database", str(database), *model, *options]
        return of_command(*PYTHON, *command, output=self.output)

    def fresh(self, name: str) -> Path:
        """Return the path of a database that does not exist."""
        for path in self.place.glob(f"{name}.db*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return self.place / f"{name}.db"

    def library(self, count: int) -> Path:
        """Return a synced database of `count` small photos."""
        database = self.place / f"photos{count}.db"
        if not database.exists():
            make_photos(self.place / f"photos{count}", count, (64, 48))
            self.sync(self.place / f"photos{count}", database)
        return database

    def first(self) -> Iterator[str]:
        photos = make_photos(self.place / "tagged", self.tagged, (640, 480))
        command = [*PYTHON, "tag", "--recursive", str(photos), "--format", "jsonl"]
        jobs = {
            "tag": lambda: of_command(*command, output=self.output),
            "sync": lambda: self.sync(photos, self.fresh("first"), tiny=False),
        }
        uses = alternately(jobs, repeats=3, warm=False)
        for name in jobs:
            yield f"{name} of {self.tagged}: {middle([use.wall for use in uses[name]], '.1f')} s"
        walls = [sync.wall / tag.wall for sync, tag in zip(uses["sync"], uses["tag"], strict=True)]
        yield f"sync : tag, {middle(walls)} wall time, {ratio(uses['sync'], uses['tag']):.2f} in CPU time"

    def thumbnails(self) -> Iterator[str]:
        for count, size in ((self.tagged, (640, 480)), (self.tagged // 5, (4000, 3000))):
            photos = make_photos(self.place / f"photos{count}of{size[0]}", count, size)
            jobs = {
                "bare": partial(self._anew, "bare", photos, "--no-thumbnails"),
                "shown": partial(self._anew, "shown", photos),
            }
            without, made = alternately(jobs, repeats=3, warm=False).values()
            kept = list((self.place / "shown.db.thumbnails").rglob("*.jpg"))
            disk = sum(file.stat().st_size for file in kept) / 1000 / len(kept)
            walls = [one.wall / other.wall for one, other in zip(made, without, strict=True)]
            speeds = [middle([count / one.wall for one in uses], ".1f") for uses in (without, made)]
            yield (
                f"{count} of {size[0]}×{size[1]}: {speeds[0]} photos/s, with thumbnails {speeds[1]}; "
                f"{middle(walls)} wall time, {ratio(made, without):.3f} in CPU time; "
                f"{len(kept)} kept, {disk:.1f} kB each"
            )

    def _anew(self, name: str, photos: Path, *options: str) -> Use:
        return self.sync(photos, self.fresh(name), *options, tiny=False)

    def unchanged(self) -> Iterator[str]:
        database = self.library(self.many)
        before = database.stat().st_mtime_ns
        uses = [self.sync(self.place / f"photos{self.many}", database) for _ in range(3)]
        yield (
            f"unchanged sync of {self.many}: {min(use.wall for use in uses):.2f} s (best of 3), "
            f"{min(use.cpu for use in uses):.2f} s CPU; {self.output.read_text().strip()}; "
            f"database written: {database.stat().st_mtime_ns != before}"
        )
        arguments = ["library", "sync", str(self.place / f"photos{self.many}"), "--database", str(database)]
        script = _COUNTED.format(arguments=[*arguments, "--model", str(self.tiny)])
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        yield f"photos opened: {done.stderr.split()[-1]}"

    def memory(self) -> Iterator[str]:
        peaks = {}
        for count in (self.few, self.many):
            photos = make_photos(self.place / f"photos{count}", count, (64, 48))
            first = self.sync(photos, self.fresh(f"photos{count}"))
            peaks[count] = first.peak, self.sync(photos, self.place / f"photos{count}.db").peak
            yield f"first sync of {count}: {first.wall:.0f} s, {first.peak / _MEGA:.0f} MB"
        for what, few, many in zip(("first", "second"), peaks[self.few], peaks[self.many], strict=True):
            more = (many - few) / _MEGA
            yield f"peak of the {what} sync of {self.many} minus that of {self.few}: {more:.0f} MB"

    def moves(self) -> Iterator[str]:
        original = self.library(self.many)
        database = self.fresh("moves")
        photos = self.place / f"photos{self.many}"
        shutil.copy(original, database)
        shutil.copytree(f"{original}.vectors", f"{database}.vectors")
        found = sorted(photos.glob("*/*.jpg"))
        done = _rename(found, self.many)
        for path in photos.rglob("*.jpg"):
            path.chmod(path.stat().st_mode ^ 0o020)
        start = time.perf_counter()
        self.sync(photos, database)
        yield (
            f"{len(done)} renamed, {self.many} chmod-ed, {self.many // 100} touched: "
            f"{time.perf_counter() - start:.1f} s; {self.output.read_text().strip()}"
        )
        for old, new in reversed(done):
            new.rename(old)

    def kills(self) -> Iterator[str]:
        photos = make_photos(self.place / f"photos{self.few}", self.few, (64, 48))
        killed, whole, dice = self.fresh("killed"), self.fresh("whole"), random.Random(0)
        self.sync(photos, whole)
        costs = [
            self._killed(photos, killed, dice.uniform(0, self.few / 30), dice.random() / 50)
            for _ in range(20)
        ]
        kept = len(_rows(killed))
        self.sync(photos, killed)
        same = _rows(killed) == _rows(whole)
        yield (
            f"20 kills in a sync of {self.few}: at most {max(costs)} photos printed but not stored, {kept} "
            f"stored before the last run; rows equal to those of a run without kills: {same}"
        )

    def _killed(self, photos: Path, database: Path, rows: float, seconds: float) -> int:
        """Kill a sync some time after some rows; return how many more rows it printed than it stored."""
        before = len(_rows(database))
        command = [*PYTHON, "library", "sync", str(photos), "--database", str(database), "--format", "jsonl"]
        process = subprocess.Popen([*command, "--model", str(self.tiny)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        printed = sum(1 for line in islice(process.stdout, int(rows)) if line)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        printed += process.communicate()[0].count(b"\n")
        with sqlite3.connect(database) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return before + printed - len(_rows(database))


def _rename(photos: list[Path], many: int) -> list[tuple[Path, Path]]:
    """Move a tenth to other folders, rename a hundredth in capitals, touch a hundredth; return (old, new)."""
    moved, renamed = photos[: many // 10], photos[many // 10 : many // 10 + many // 100]
    pairs = [(path, path.parents[1] / "moved" / path.parent.name / path.name) for path in moved]
    pairs += [(path, path.with_name(path.name.upper())) for path in renamed]
    for old, new in pairs:
        new.parent.mkdir(parents=True, exist_ok=True)
        old.rename(new)
    for path in photos[-many // 100 :]:
        os.utime(path)
    return pairs


def _rows(database: Path) -> dict[str, object]:
    """Return what is stored of each finished photo."""
    connection = sqlite3.connect(database)
    try:
        tags = "(SELECT group_concat(tag || score) FROM tags WHERE photo = photos.id)"
        query = f"SELECT name, hex(picture), {tags} FROM photos WHERE state = 'done'"
        return {name: rest for name, *rest in connection.execute(query)}
    except sqlite3.OperationalError:  # killed before the tables were made
        return {}
    finally:
        connection.close()


def main() -> None:
    parts = ["first", "thumbnails", "memory", "unchanged", "moves", "kills"]
    args = arguments(__doc__ or "", parts, many=100_000, few=1000, tagged=2000)
    report(Bench(args.folder, many=args.many, few=args.few, tagged=args.tagged), args.part)


if __name__ == "__main__":
    main()
