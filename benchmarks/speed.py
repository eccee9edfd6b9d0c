"""Speed of `anytag tag`, beside its lower bound and beside what a user would use instead, in one run.

    python benchmarks/speed.py examples/photos

The photos are cropped and resized to 500×375, and to 4000×3000 with grain, as JPEGs in a temporary folder.
Compared jobs alternate, and the ratio of their CPU times in the same round counts: other work on the machine
then slows down both. Photos per second and wall time are only correct on an idle machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as the command line does, before numpy is imported

import argparse
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path

import baselines
import measure
import photos
import pipelines
from measure import Use

from anytag.models.folder import ModelFolder
from anytag.models.registry import resolve

SMALL, LARGE = (500, 375), (4000, 3000)
GRAIN = 8.0  # makes 12 megapixels 3 MB, as cameras do
PART, BASELINE_PART = 160, 40  # photos in one round of a part, of a baseline
COLD_STARTS = 9
IMPORTS = "import onnxruntime, numpy, PIL.Image"
REPOSITORY = Path(__file__).resolve().parents[1]
MEGA = 1e6


@dataclass
class Report:
    """Rows of the two tables, and the notes below them."""

    speed: list[Sequence[str]] = field(default_factory=list)
    targets: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, what: str, uses: Sequence[Use], *, workers: int = 1) -> None:
        """Add a row of speed; `uses` are per photo."""
        cpu = measure.middle([1000 * use.cpu for use in uses])
        rate = measure.middle([1 / use.wall for use in uses], ".0f")
        self.speed.append((what, str(workers), cpu, rate))

    def check(self, what: str, value: float, target: str, *, form: str = ".2f", met: bool) -> None:
        """Add a row of targets."""
        self.targets.append((what, f"{value:{form}}", target, "yes" if met else "**no**"))

    def markdown(self) -> str:
        head = ("", "workers", "CPU ms per photo", "photos/s")
        parts = [measure.table(head, self.speed)]
        if self.targets:
            parts.append(measure.table(("", "measured", "target", "met"), self.targets))
        return "\n".join([*parts, *(f"- {note}" for note in self.notes)]) + "\n"


class Benchmark:
    """One run with the arguments `args`; files are in the folder `work`."""

    def __init__(self, args: argparse.Namespace, work: Path) -> None:
        self.args, self.work = args, work
        self.folder = resolve(args.model)
        self.model = ModelFolder.open(self.folder, verify=False)
        self.sources = photos.in_folder(args.photos)
        if not self.sources:
            sys.exit(f"{args.photos} contains no photos ({', '.join(photos.SUFFIXES)})")
        self.cores = len(os.sched_getaffinity(0))
        self.small = photos.make(self.sources, work / "small", size=SMALL, count=args.count)
        self.report = Report()

    def run(self) -> str:
        """Run all measurements; return the tables in Markdown."""
        self.compare()
        self.large_photos()
        self.cold_start()
        if self.args.memory_count:
            self.memory(self.args.memory_count)
        if self.args.install_size:
            self.install_size()
        self.describe()
        return self.report.markdown()

    def tag(self, where: Path, *options: str) -> Use:
        """Run `anytag tag` as a user does, with the model of this run."""
        output = self.work / "rows.jsonl"
        chosen = ["--model", str(self.folder)] if self.args.model else []
        use = measure.of_command(
            *_anytag(), "tag", str(where), "--format", "jsonl", *chosen, *options, output=output
        )
        with output.open() as rows:
            done = sum(1 for _ in rows)
        if done != (len(list(where.iterdir())) if where.is_dir() else 1):
            sys.exit(f"{where}: {done} rows in the output")
        return use

    def compare(self) -> None:
        """Measure the command, its lower bound, its parts and its baselines."""
        count = len(self.small)
        parts = pipelines.Parts(self.model, _whole_batches(self.small, PART))
        here: dict[str, tuple[Callable[[], object], int]] = {
            "decode only": (parts.decode, len(parts.paths)),
            "**lower bound**: decode, bare backbone": (parts.floor, len(parts.paths)),
            "bare backbone alone": (parts.backbone, len(parts.paths)),
            "tag decoder alone: first pass and shortlist": (parts.first_pass, len(parts.paths)),
            f"tag decoder alone: all {parts.tags:,} tags": (parts.all_tags, len(parts.paths)),
            **self.baselines(parts.tags),
        }
        jobs: dict[str, Callable[[], Use]] = {
            name: partial(measure.of_function, work) for name, (work, _) in here.items()
        }
        jobs["start"] = partial(self.tag, self.small[0])
        jobs["one"] = partial(self.tag, self.small[0].parent, "--workers", "1")
        jobs["command"] = partial(self.tag, self.small[0].parent)
        found = measure.alternately(jobs, repeats=self.args.repeats)

        each = {name: [use.each(size) for use in found[name]] for name, (_, size) in here.items()}
        command = [use.each(count) for use in found["command"]]
        net = _net(found["command"], found["start"], count)
        _, floor, backbone, first_pass, all_tags, *others = each
        self.report.add(floor, each[floor])
        self.report.add("**`anytag tag`**, the whole command", command, workers=self.cores)
        self.report.add("the same, without its start", net, workers=self.cores)
        self.report.add("the same, `--workers 1`", [use.each(count) for use in found["one"]])
        for name in (next(iter(each)), backbone, first_pass, all_tags, *others):
            self.report.add(name, each[name])
        self.check_ratios(each[floor], command, net, each[backbone], (each[first_pass], each[all_tags]))

    def check_ratios(
        self,
        floor: Sequence[Use],
        command: Sequence[Use],
        net: Sequence[Use],
        backbone: Sequence[Use],
        decoders: tuple[Sequence[Use], Sequence[Use]],
    ) -> None:
        """Compare CPU times, round by round."""
        check = self.report.check
        whole = measure.ratio(command, floor)
        check("CPU, the whole command : lower bound", whole, "at most 1.25", met=whole <= 1.25)
        self.report.notes.append(
            f"Command without its start : lower bound is {measure.ratio(net, floor):.2f}."
        )
        rate = statistics.median(1 / use.wall for use in command)
        check("photos/s, 500×375, whole command", rate, "at least 200", form=".0f", met=rate >= 200)
        default, everything = (measure.ratio(decoder, backbone) for decoder in decoders)
        check("CPU, tag decoder by default : backbone", default, "at most 1.00", met=default <= 1)
        self.report.notes.append(f"Tag decoder over all tags : backbone is {everything:.2f}.")

    def baselines(self, tags: int) -> dict[str, tuple[Callable[[], object], int]]:
        """Return the baselines as jobs; none, and a note, if packages are missing."""
        if missing := baselines.missing():
            self.report.notes.append(f"Baselines were skipped: pip install {' '.join(missing)}")
            return {}
        paths = _whole_batches(self.small, BASELINE_PART)
        graphs = baselines.export(self.args.graphs or self.work)
        return {
            f"baseline: open_clip {one.name} (float32, {one.size} px), dot product per tag": (
                pipelines.baseline(graph, paths, size=one.size, tags=tags),
                len(paths),
            )
            for one, graph in graphs.items()
        }

    def large_photos(self) -> None:
        """Measure photos of 12 megapixels."""
        count = max(8, self.args.count // 80 * 8)
        paths = photos.make(self.sources[:8], self.work / "large", size=LARGE, count=count, grain=GRAIN)
        parts = pipelines.Parts(self.model, paths)
        jobs = {
            "floor": lambda: measure.of_function(parts.floor),
            "start": lambda: self.tag(self.small[0]),
            "command": lambda: self.tag(paths[0].parent),
        }
        found = measure.alternately(jobs, repeats=self.args.repeats)
        net = _net(found["command"], found["start"], count)
        self.report.add("12 megapixels: decode, bare backbone", [use.each(count) for use in found["floor"]])
        self.report.add("12 megapixels: `anytag tag`, without its start", net, workers=self.cores)
        rate = statistics.median(1 / use.wall for use in net)
        what = "photos/s, 12 megapixels, without the start"
        self.report.check(what, rate, "at least 45", form=".0f", met=rate >= 45)
        self.report.notes.append(
            f"JPEGs of {photos.mean_kilobytes(self.small):.0f} kB (500×375) and "
            f"{photos.mean_kilobytes(paths):.0f} kB (4000×3000, grain added), "
            f"made from {len(self.sources)} photos."
        )

    def cold_start(self) -> None:
        """Measure the command on one photo, start included."""
        nowhere = Path(os.devnull)
        jobs = {
            "imports": lambda: measure.of_command(sys.executable, "-c", IMPORTS, output=nowhere),
            "command": lambda: self.tag(self.small[0]),
        }
        found = measure.alternately(jobs, repeats=COLD_STARTS)
        wall = {name: statistics.median(use.wall for use in uses) for name, uses in found.items()}
        peak = statistics.median(use.peak for use in found["command"]) / MEGA
        self.report.check(
            "wall seconds, `anytag tag one.jpg`",
            wall["command"],
            "at most 0.35",
            met=wall["command"] <= 0.35,
        )
        self.report.check("peak MB, one photo", peak, "at most 110", form=".0f", met=peak <= 110)
        self.report.notes.append(f"`python -c '{IMPORTS}'` takes {wall['imports']:.2f} s of wall time.")

    def memory(self, count: int) -> None:
        """Measure the peak memory of one command over many photos."""
        folder = self.work / "many"
        folder.mkdir()
        for i in range(count):
            os.link(self.small[i % len(self.small)], folder / f"{i:06}.jpg")
        peak = self.tag(folder).peak / MEGA
        self.report.check(f"peak MB, {count:,} photos", peak, "under 300", form=".0f", met=peak < 300)

    def install_size(self) -> None:
        """Measure what `pip install .` puts into an empty environment, compiled modules included."""
        venv = self.work / "venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
        pip = [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python")]
        subprocess.run([*pip, "install", "--quiet", str(REPOSITORY)], check=True, stdout=sys.stderr)
        size = sum(path.lstat().st_size for path in venv.glob("lib/*/site-packages/**/*") if path.is_file())
        self.report.check("MB, base install", size / MEGA, "under 250", form=".0f", met=size / MEGA < 250)

    def describe(self) -> None:
        """Note what was measured, and on what."""
        card, size = self.model.card, self.model.card.image.size
        libraries = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "pillow", "numpy"))
        repeats = f"{self.args.repeats} alternated rounds of up to {len(self.small)} photos"
        self.report.notes += [
            f"Model {card.name} {card.version}, {size} px, batches of {baselines.BATCH}.",
            f"Medians (and ranges) of {repeats}; ratios are medians of those of each round.",
            f"{self.args.machine}; Python {sys.version.split()[0]}, {libraries}.",
        ]


def _anytag() -> list[str]:
    """Return the command: the script that pip installed, or the module if anytag is not installed."""
    script = Path(sys.executable).with_name("anytag")
    return [str(script)] if script.exists() else [sys.executable, "-m", "anytag"]


def _net(commands: Sequence[Use], starts: Sequence[Use], count: int) -> list[Use]:
    """Subtract the start, which a command on one photo measures, and return each photo's share."""
    return [whole.without(start).each(count - 1) for whole, start in zip(commands, starts, strict=True)]


def _whole_batches(paths: Sequence[Path], limit: int) -> Sequence[Path]:
    return paths[: min(limit, len(paths)) // baselines.BATCH * baselines.BATCH]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photos", type=Path, help="folder of photos to make the test photos from")
    parser.add_argument("--model", help="name or folder; default: the embedded model")
    parser.add_argument("--count", type=int, default=400, help="photos of 500×375, at least 16 [400]")
    parser.add_argument("--repeats", type=int, default=3, help="alternated rounds [3]")
    parser.add_argument(
        "--memory-count",
        type=int,
        default=1500,
        help="photos for peak memory, 0: skip; 10000 takes 2 min [1500]",
    )
    parser.add_argument("--install-size", action="store_true", help="install into an empty environment: slow")
    parser.add_argument(
        "--graphs", type=Path, metavar="FOLDER", help="keep the baselines' graphs for the next run"
    )
    parser.add_argument("--markdown", type=Path, metavar="OUT", help="write the tables to this file too")
    args = parser.parse_args()
    if args.count < 16 or args.repeats < 1:
        parser.error("--count must be 16 or more, --repeats 1 or more")
    args.machine = measure.machine()
    return args


def main() -> None:
    args = _arguments()
    with tempfile.TemporaryDirectory() as work:
        found = Benchmark(args, Path(work)).run()
    print(found)
    if args.markdown:
        args.markdown.write_text(found, encoding="utf-8")


if __name__ == "__main__":
    main()
