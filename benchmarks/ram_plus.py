"""RAM++'s tagging at its published size, beside a direct transcription of the published code, in one run.

    python benchmarks/ram_plus.py examples/photos

4,585 tags with 51 descriptions of 512 numbers, the full tagging head (768 wide, 2 layers), a small Swin at
224 pixels (50 tokens) and random weights: queries and head are measured. Each row runs in its own process on
one thread; after one photo to warm up, the best of some rounds counts. Rows alternate.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy and torch come

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import PIPE, run
from typing import Any

import measure
import numpy as np
import numpy.typing as npt
import photos

TAGS, DESCRIPTIONS, WIDTH, SIZE = 4585, 51, 512, 224
FIT = 64  # crops that a first pass is trained and measured on, a quarter of them held out
SHORTLIST = 512
PREDICTED = 0.01  # share of tags above the threshold
SPREAD = 2.5  # standard deviation of logits, about that of trained models
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Way:
    """A row of the table: how photos are tagged, and with which of the folders."""

    name: str
    folder: str
    precision: str | None = None
    published: bool = False


@dataclass(frozen=True, eq=False)
class Found:
    """Results of a process: seconds, bytes; logits and which tags are returned, photos × tags."""

    cpu: float
    wall: float
    peak: int
    logits: Floats
    predicted: npt.NDArray[np.bool_]


WAYS = (
    Way("published form: loop, repetition, float32", "exact", published=True),
    Way("torch, float32", "exact", "float32"),
    Way("torch, float32, table in float16", "half", "float32"),
    Way("torch, bfloat16", "exact", "bfloat16"),
    Way("torch, int8", "exact", "int8"),
    Way("torch, int8, table in float16", "half", "int8"),
    Way("onnxruntime, float32", "exact"),
    Way("onnxruntime, float32, table in float16", "half"),
    Way("onnxruntime, int8", "int8"),
    Way(f"onnxruntime, float32, first pass leaves {SHORTLIST} tags", "first"),
    Way(f"onnxruntime, int8, first pass leaves {SHORTLIST} tags", "first8"),
)


# --- folders


def make_folders(work: Path, crops: Sequence[Path]) -> dict[str, Any]:
    """Make a folder of random weights with graphs, and its variants; return what the first pass loses."""
    from anytag.models.card import Card
    from anytag.models.folder import write_card
    from anytag.runtime.onnx import QUANTIZED_TAGS, TAGS
    from anytag.torch.export.dynamic_int8 import MLP_WEIGHTS, to_int8
    from anytag.torch.export.export_folder import export_folder
    from anytag.torch.training.prefilter import learn_first_pass

    exact = work / "exact"
    if not (exact / "image.onnx").exists():  # kept from an earlier run
        write_random(exact, crops)
        export_folder(exact)
    calibrate(exact, crops)
    for name in ("half", "int8", "first", "first8"):
        shutil.rmtree(work / name, ignore_errors=True)
    half = Path(shutil.copytree(exact, work / "half"))
    halve_table(half)
    int8 = Path(shutil.copytree(exact, work / "int8"))
    rounded = Path(shutil.copyfile(int8 / TAGS, int8 / QUANTIZED_TAGS))
    to_int8(rounded, large=MLP_WEIGHTS, subtract_mean=True)
    write_card(int8, Card.read(int8))
    first = Path(shutil.copytree(half, work / "first"))
    found = learn_first_pass(first, list(crops), shortlist=SHORTLIST)
    first8 = Path(shutil.copytree(first, work / "first8"))
    shutil.copyfile(rounded, first8 / QUANTIZED_TAGS)
    write_card(first8, Card.read(first8))
    return {"lost": found.lost, "given": found.predicted, "photos": found.photos}


def write_random(folder: Path, crops: Sequence[Path]) -> Path:
    """Write weights wide enough that answers differ from photo to photo, and text vectors of length 1."""
    import torch
    from safetensors.torch import save_file

    from anytag.models.card import Calibration, Card, ImageSpec, Platt
    from anytag.models.folder import write_card
    from anytag.torch.checkpoints.load import network_fields
    from anytag.torch.nn.configs import FAMILIES, SwinConfig
    from anytag.torch.nn.network import TagNetwork
    from anytag.vocabulary import Tag, Vocabulary

    torch.manual_seed(0)
    backbone = SwinConfig(width=32, depths=(2, 2, 2, 2), heads=(1, 2, 4, 8), window=7)
    config = replace(FAMILIES["ram-plus"], backbone=backbone, size=SIZE)
    network = TagNetwork(config)
    for name, weight in network.decoder.named_parameters():
        if name.endswith(
            ("query.weight", "key.weight", "value.weight", "dense.weight", "up.weight", "down.weight")
        ):
            torch.nn.init.normal_(weight, std=0.04)
    folder.mkdir()
    common = torch.nn.functional.normalize(torch.randn(TAGS, 1, WIDTH), dim=-1)
    rows = torch.nn.functional.normalize(
        common + 0.7 * torch.randn(TAGS, DESCRIPTIONS, WIDTH) / WIDTH**0.5, dim=-1
    )
    spread_answers(network, rows, crops)
    save_file(
        {name: one.contiguous() for name, one in network.state_dict().items()}, folder / "weights.safetensors"
    )
    save_file({"rows": rows}, folder / "queries.safetensors")
    Vocabulary(Tag(f"tag {k}", f"tag {k}", "object", threshold=0.5) for k in range(TAGS)).write(
        folder / "vocabulary.jsonl"
    )
    line = Platt(1.0, 0.0)
    card = Card(
        name="random-ram-plus", family="ram-plus", version="1", description="Random weights.",
        image=ImageSpec(SIZE, "bilinear", config.mean, config.std, plain=True), width=WIDTH, text=None,
        calibration=Calibration(line, line), shortlist=SHORTLIST, licence="none", training_data="none",
        thresholds="a share of the tags", metrics={}, files={}, network=network_fields(config),
    )  # fmt: skip
    write_card(folder, card)
    return folder


def spread_answers(network: Any, rows: Any, crops: Sequence[Path]) -> None:
    """Remove from the head what all tags of a photo share, and give its logits the spread of a trained one.

    With random weights that share is most of an answer: one photo would get every tag, the next none.
    """
    import torch

    decoder = network.eval().decoder
    with torch.no_grad():
        pixels = torch.stack([torch.from_numpy(read(path)) for path in crops])
        tokens, pooled = network.encoder(pixels)
        x = decoder.decode(decoder.embed(pooled, rows[None, :400]), decoder.project_kv(tokens))  # N×400×H
        shared = torch.linalg.svd(x.mean(1), full_matrices=False).Vh  # N×H
        weight = decoder.head.weight
        weight -= weight @ shared.T @ shared
        weight *= SPREAD / (x @ weight.T).std()
        decoder.head.bias.zero_()


def read(photo: Path) -> npt.NDArray[np.uint8]:
    """Return a photo as 3×S×S, preprocessed exactly as published."""
    from anytag.images import load, prepare

    return prepare(load(photo, exact=True), size=SIZE, exact=True)


def calibrate(folder: Path, crops: Sequence[Path]) -> None:
    """Set one threshold for all tags, so that the median photo gets the share `PREDICTED` of them."""
    from anytag.models.card import Card
    from anytag.models.folder import write_card
    from anytag.vocabulary import Vocabulary

    answer, _, _ = open_way(Way("", folder.name), folder)
    logits = np.stack([answer(path) for path in crops])
    level = np.median(np.quantile(logits, 1 - PREDICTED, axis=1))
    threshold = 1 / (1 + np.exp(-float(level)))
    vocabulary = Vocabulary.read(folder / "vocabulary.jsonl").with_thresholds(threshold)
    vocabulary.write(folder / "vocabulary.jsonl")
    write_card(folder, Card.read(folder))


def halve_table(folder: Path) -> None:
    from safetensors.numpy import save_file

    from anytag.models.card import Card
    from anytag.models.folder import write_card
    from anytag.models.tensors import map_tensors

    rows = map_tensors(folder / "queries.safetensors")["rows"].astype(np.float16)
    save_file({"rows": rows}, folder / "queries.safetensors")
    write_card(folder, Card.read(folder))


# --- one way, in a process of its own


Answer = Callable[[Path], npt.NDArray[Any]]


def open_way(way: Way, folder: Path) -> tuple[Answer, Answer, Callable[[Path], object]]:
    """Return functions of a photo: all tags' logits (-inf if not decoded), the tags given, the timed job."""
    from anytag.models.folder import ModelFolder
    from anytag.queries.build import Questions
    from anytag.tagger import Tagger

    if way.published:
        job, limits = published(folder), thresholds_of(folder)
        return job, lambda photo: job(photo) > limits, job
    tagger = Tagger.load(folder, device="cpu", threads=1, precision=way.precision)  # type: ignore[arg-type]
    question = Questions(ModelFolder.open(folder, verify=False)).prepare(
        None, also=None, top_k=None, threshold=None
    )

    def answer(photo: Path) -> Floats:
        encoding = tagger.encode(photo)
        index, logits = question.logits(tagger.runtime, encoding.tokens[None], encoding.pooled[None])
        every = np.full(len(tagger.vocabulary), -np.inf, np.float32)
        every[index[0]] = logits[0]
        return every

    def predicted(photo: Path) -> npt.NDArray[np.bool_]:
        return np.isin(tagger.vocabulary.ids, [tag.id for tag in tagger.tag(photo).tags])

    return answer, predicted, tagger.tag


def published(folder: Path) -> Callable[[Path], Floats]:
    """Return the published code, written from its description: photo by photo, everything repeated."""
    import torch
    from torch import Tensor

    from anytag.torch.checkpoints.load import load_network, load_queries
    from anytag.torch.nn.bert_layers import CrossLayer
    from anytag.torch.nn.cross_decoder import CrossDecoder

    torch.set_num_threads(1)
    network = load_network(folder)
    label_embed = load_queries(folder).flatten(0, 1).clone()
    decoder = network.decoder
    assert isinstance(decoder, CrossDecoder)
    answer = decoder.head
    assert answer is not None

    def heads(x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], 4, -1).permute(0, 2, 1, 3)

    def head(queries: Tensor, tokens: Tensor) -> Tensor:
        for layer in decoder.layers:
            assert isinstance(layer, CrossLayer)
            cross, mlp = layer.cross, layer.mlp
            query, key, value = (
                heads(cross.query(queries)),
                heads(cross.key(tokens)),
                heads(cross.value(tokens)),
            )
            scores = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
            found = (scores @ value).permute(0, 2, 1, 3).contiguous().flatten(2)
            attended = cross.norm(cross.dense(found) + queries)
            queries = mlp.norm(mlp.down(torch.nn.functional.gelu(mlp.up(attended))) + attended)
        logits: Tensor = answer(queries).squeeze(-1)
        return logits

    def job(photo: Path) -> Floats:
        with torch.no_grad():
            tokens, first = network.encoder(torch.from_numpy(read(photo))[None])
            image = first / first.norm(dim=-1, keepdim=True)
            logits = (decoder.reweight_scale.exp() * image @ label_embed.t()).view(len(image), TAGS, -1)
            weights, rows = logits.softmax(2), label_embed.view(TAGS, -1, WIDTH)
            mixed = torch.stack([(weights[b].unsqueeze(-1) * rows).sum(1) for b in range(len(image))])
            found: Floats = head(torch.relu(decoder.project(mixed)), tokens)[0].numpy()
        return found

    return job


def measure_way(name: str, folder: Path, files: Sequence[Path], rounds: int) -> None:
    """Print CPU and wall seconds of the best round and the peak memory; write the logits."""
    way = next(one for one in WAYS if one.name == name)
    answer, predicted, job = open_way(way, folder)
    job(files[0])
    cpus, walls = [], []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        job(files[0])
        cpus.append(time.process_time() - cpu)
        walls.append(time.perf_counter() - wall)
    best = min(cpus), min(walls)
    peak = peak_memory()
    np.save(folder.parent / "logits.npy", np.stack([answer(file) for file in files]))
    np.save(folder.parent / "given.npy", np.stack([predicted(file) for file in files]))
    print(json.dumps([*best, peak]))


def peak_memory() -> int:
    """Return the peak resident bytes of this program; `getrusage` would include the parent's."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


# --- all ways


HEAD = (
    "",
    "CPU s per photo",
    "of published",
    "wall s",
    "peak GB",
    "largest logit difference",
    "tags that flip",
)


def compare(work: Path, files: Sequence[Path], args: argparse.Namespace) -> str:
    """Run every way alternately; return the table."""
    found: dict[Way, list[Found]] = {way: [] for way in WAYS}
    for _ in range(args.turns):
        for way in WAYS:
            found[way].append(launch(way, work, files, args))
    published = found[WAYS[0]]
    return measure.table(HEAD, [row_of(way.name, found[way], published) for way in WAYS])


def launch(way: Way, work: Path, files: Sequence[Path], args: argparse.Namespace) -> Found:
    """Run one way in a subprocess."""
    command = [sys.executable, __file__, str(args.photos), "--way", way.name]
    command += [
        "--folder",
        str(work / way.folder),
        "--rounds",
        str(args.rounds),
        "--files",
        *map(str, files),
    ]
    output = run(command, check=True, stdout=PIPE, text=True).stdout
    cpu, wall, peak = json.loads(output)
    return Found(cpu, wall, peak, np.load(work / "logits.npy"), np.load(work / "given.npy"))


def row_of(name: str, found: Sequence[Found], published: Sequence[Found]) -> Sequence[str]:
    cpu, wall, peak = (
        min(one.cpu for one in found),
        min(one.wall for one in found),
        max(one.peak for one in found),
    )
    ours, theirs = found[0], published[0]
    decoded = np.isfinite(ours.logits)
    difference = np.abs(ours.logits - theirs.logits)[decoded].max()
    flips = f"{(ours.predicted != theirs.predicted).sum()} of {theirs.predicted.sum()}"
    share = cpu / min(one.cpu for one in published)
    return name, f"{cpu:.2f}", f"{share:.2f}", f"{wall:.2f}", f"{peak / 1e9:.2f}", f"{difference:.1e}", flips


def thresholds_of(folder: Path) -> npt.NDArray[np.float64]:
    """Return the thresholds in log-odds."""
    from anytag.vocabulary import Vocabulary

    scores = np.array([tag.threshold for tag in Vocabulary.read(folder / "vocabulary.jsonl")])
    odds: npt.NDArray[np.float64] = np.log(scores / (1 - scores))
    return odds


def crop(sources: Sequence[Path], folder: Path, *, count: int) -> list[Path]:
    """Make random crops of photos, each at least a third as wide and as high."""
    from PIL import Image

    folder.mkdir()
    random, made = np.random.default_rng(0), []
    for k in range(count):
        with Image.open(sources[k % len(sources)]) as picture:
            share = random.uniform(0.33, 1, 2)
            size = [max(1, round(side * part)) for side, part in zip(picture.size, share, strict=True)]
            left, top = (
                random.integers(0, whole - part + 1) for whole, part in zip(picture.size, size, strict=True)
            )
            part = picture.convert("RGB").crop((left, top, left + size[0], top + size[1]))
        made.append(folder / f"{k:03}.jpg")
        part.save(made[-1], quality=90)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photos", type=Path, help="folder of photos")
    parser.add_argument("--rounds", type=int, default=4, help="in each process [4]")
    parser.add_argument("--turns", type=int, default=2, help="processes for each row [2]")
    parser.add_argument("--markdown", type=Path, metavar="OUT", help="write the table to this file too")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the model for the next run")
    for hidden in ("--way", "--folder"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--files", nargs="*", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        measure_way(args.way, Path(args.folder), args.files, args.rounds)
        return
    machine = measure.machine()
    with tempfile.TemporaryDirectory() as scratch:
        work = args.keep or Path(scratch)
        work.mkdir(exist_ok=True)
        crops = crop(photos.in_folder(args.photos), Path(scratch) / "crops", count=FIT)
        found = make_folders(work, crops)
        text = compare(work, crops[:16:4], args)  # held out from the first pass
    text += (
        f"\n- First pass: {found['lost']:.2%} of {found['given']} tags on {found['photos']} "
        f"held-out crops are lost.\n- {machine}.\n"
    )
    print(text)
    if args.markdown:
        args.markdown.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
