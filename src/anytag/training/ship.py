"""Makes the embedded model's folder from a training run.

    python -m anytag.training.ship ROWS CACHE VOCABULARY RUN OUT

Exports both graphs (compared with torch), quantises the image graph, writes queries, vocabulary and text
encoder, then calibrates scores and thresholds with the graphs that are shipped, on Flickr8k's dev photos,
which were not trained on. The cache gives the teacher's answers for the tags that captions never name.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save_file

from anytag.data.rows import Row
from anytag.evaluation.metrics import mean_average_precision
from anytag.export.graphs import export_folder_graphs
from anytag.export.quantize import quantize_image_graph
from anytag.images import load, prepare
from anytag.models.card import Calibration, Card, ImageSpec, Line, TextSpec
from anytag.models.folder import ModelFolder, write_card
from anytag.models.hub import EMBEDDED
from anytag.models.onnx import IMAGE, TAGS, OnnxRuntime
from anytag.nn.runtime import TorchRuntime
from anytag.queries.bank import Bank
from anytag.vocabulary import Vocabulary

from .calibrate import Calibration as Platt
from .calibrate import fit_calibration, fit_offsets, fit_thresholds, sigmoid
from .corpus import Cache, Corpus
from .student import Student
from .train import build_student, read_recipe

Floats = npt.NDArray[np.float32]

# Training photos of each source: that the integers are fitted to, and that scores are calibrated on.
QUANTIZATION = {"flickr8k": 56, "coco-more": 16, "imagenet": 40, "sun": 8, "food101": 8, "grocery": 8}
OTHER_PHOTOS = {"coco-more": 1200, "coco": 300, "imagenet": 800, "sun": 150, "food101": 80, "grocery": 100}
SHORTLIST = 96
# Of a tag's own offset. 1.0 fits no better, and spoils the order of tags that are asked by name.
SPREAD = 0.5
DESCRIPTION = "Tags photos with about 2,000 tags and any others that are asked in words; for a CPU."
TRAINING_DATA = (
    "Flickr8k train (6,000 photos with captions), 39,743 COCO photos with a caption each, and about 1,750 "
    "labelled photos of ImageNet, SUN, Food-101 and GroceryStoreDataset; ImageNet weights of "
    "EfficientNet-Lite0 (Apache-2.0) as the start and of EfficientNet-Lite2 (Apache-2.0) as a teacher; "
    "words from all-MiniLM-L6-v2 (Apache-2.0). Flickr8k, ImageNet and SUN photos are for non-commercial "
    "research; COCO photos have licences of their own; no photo is part of the model."
)
LICENCE = "Apache-2.0 (weights; see training_data for the terms of the photos)"


def load_student(run: Path, vocabulary: Path) -> Student:
    """The trained student, with averaged weights."""
    student, _ = build_student(vocabulary, read_recipe(run / "recipe.json"))
    student.load_state_dict(torch.load(run / "student.pt", weights_only=True))
    return student.eval()


def write_queries(student: Student, path: Path) -> None:
    """Rows in int8 with a scale each, and the first pass's weights, made from the rows as they are stored."""
    with torch.no_grad():
        rows = student.queries().numpy()
        scale = np.abs(rows).max(-1) / 127
        stored = np.round(rows / np.maximum(scale, 1e-12)[..., None]).astype(np.int8)
        back = torch.from_numpy(stored * scale[..., None].astype(np.float32))
        mean = back.sum(1) / (back != 0).any(-1).sum(1, keepdim=True).clamp_min(1)
        coarse = torch.cat([mean, student.network.folded.bias(mean)], dim=1)
    line = np.tile(np.array([1, 0], np.float32), (len(rows), 1))
    save_queries(path, Bank(stored, scale.astype(np.float32), coarse.numpy(), line))


def save_queries(path: Path, bank: Bank) -> None:
    """Writes queries.safetensors, atomically: the bank's rows may be mapped from that very file."""
    coarse = None if bank.coarse is None else bank.coarse.astype(np.float16)
    tensors = {"rows": bank.rows, "scale": bank.scale, "coarse": coarse, "line": bank.line}
    held = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items() if tensor is not None}
    beside = path.with_name(path.name + ".new")
    save_file(held, beside)
    beside.chmod(0o644)  # safetensors writes for the owner alone
    beside.replace(path)


def write_projection(student: Student, path: Path) -> None:
    """The query projection as the text encoder reads it, in float16."""
    p = student.queries.projection
    weights = {"skip": p.skip.weight.T, "w1": p.fc1.weight.T, "w2": p.fc2.weight.T}
    tensors = {**weights, "b1": p.fc1.bias, "b2": p.fc2.bias}
    path.unlink(missing_ok=True)
    save_file(
        {name: np.ascontiguousarray(t.detach().numpy(), np.float16) for name, t in tensors.items()}, path
    )
    path.chmod(0o644)


def pixels_of(rows: list[Row], root: Path, size: int) -> npt.NDArray[np.uint8]:
    """uint8 N×3×S×S."""
    return np.stack([prepare(load(root / row.image, near=size), size=size) for row in rows])


def logits_of(
    runtime: OnnxRuntime | TorchRuntime, pixels: npt.NDArray[np.uint8], queries: Floats, *, batch: int = 16
) -> Floats:
    """Logits of every tag for every photo: N×K."""
    out = []
    for start in range(0, len(pixels), batch):
        tokens, pooled = runtime.encode(pixels[start : start + batch])
        pieces = (queries[None, k : k + 512] for k in range(0, len(queries), 512))
        out.append(np.concatenate([runtime.score(tokens, pooled, piece) for piece in pieces], axis=1))
    return np.concatenate(out)


def int8_cost(
    integer: Floats,
    exact: Floats,
    thresholds: npt.NDArray[np.float64],
    *,
    lines: tuple[Floats, Floats],
    truth: Floats,
    named: npt.NDArray[np.bool_],
) -> dict[str, float]:
    """What the integer graph changes: logits of both and truth N×K, thresholds, slopes and biases K."""
    given, given_exact = (sigmoid(lines[0] * logits + lines[1]) >= thresholds for logits in (integer, exact))
    present = truth[:, named] > 0.5
    return {
        "mAP_float32": mean_average_precision(exact[:, named], present, at_least=5)[0],
        "mAP_int8": mean_average_precision(integer[:, named], present, at_least=5)[0],
        "largest_logit_difference": float(np.abs(integer - exact).max()),
        "given_tags_that_flip": float((given != given_exact).sum() / max(1, given_exact.sum())),
    }


def training_photos(corpus: Corpus, counts: Mapping[str, int]) -> npt.NDArray[np.int64]:
    """So many training photos of each source, at random, in a random order."""
    draw, found = np.random.default_rng(0), []
    for source, count in counts.items():
        found.append(
            draw.permutation(np.flatnonzero((corpus.split == "train") & (corpus.source == source)))[:count]
        )
    return draw.permutation(np.concatenate(found))


def calibration_photos(corpus: Corpus) -> tuple[npt.NDArray[np.int64], Floats, npt.NDArray[np.bool_]]:
    """What scores are fitted on: Flickr8k dev, and some training photos of the other sources.

    Captions of dev photos are the truth of the tags that captions name. For the rest, and on the other photos
    (whose captions and labels leave much out), it is what the model was taught to believe.

    Returns:
        numbers of the photos N, truth N×K in [0, 1], and which of the K tags captions name.
    """
    named = corpus.named
    dev = np.flatnonzero(corpus.split == "dev")
    teacher = corpus.classes.beliefs(corpus.cache.logits[dev].astype(np.float32), len(named))
    others = training_photos(corpus, OTHER_PHOTOS)
    truth = np.where(named, corpus.present[dev], teacher), corpus.belief[corpus.position[others]] / 200
    return np.concatenate([dev, others]), np.concatenate(truth).astype(np.float32), named


def fit_lines(logits: Floats, truth: Floats, groups: Sequence[npt.NDArray[np.bool_]]) -> tuple[Platt, Floats]:
    """A line for each group of tags, and an offset for each tag.

    One line for all would keep more of the order among ImageNet's classes when they are asked by name, and
    make those that no caption names far too sure of themselves.

    Args:
        logits, truth: N×K.
        groups: K each, every tag in one: those that captions name, that only the classifier knows, that only
            labels name. What teaches a tag decides how large its logits get.

    Returns:
        the line of the first group, and K×2: slope and offset that each tag's log-odds get after it.
    """
    lines = [fit_calibration(logits[:, group], truth[:, group]) for group in groups]
    base, log_odds = lines[0], np.zeros_like(logits)
    out = np.zeros((logits.shape[1], 2), np.float32)
    for group, line in zip(groups, lines, strict=True):
        slope = line.scale / base.scale
        out[group] = slope, line.bias - slope * base.bias
        log_odds[:, group] = line.scale * logits[:, group] + line.bias
    out[:, 1] += fit_offsets(log_odds, truth, spread=SPREAD)
    return base, out


def draft_card(student: Student) -> Card:
    """The card before calibration and metrics."""
    config = student.network.config
    spec = ImageSpec(size=config.size, resample="bilinear", mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    line = Line(1.0, 0.0)
    return Card(
        name="mini", family="mini", version="3", description=DESCRIPTION, image=spec, width=config.width,
        text=TextSpec(kind="static", folder="text"), calibration=Calibration(vocabulary=line, own=line),
        shortlist=SHORTLIST, licence=LICENCE, training_data=TRAINING_DATA, metrics={}, files={},
        thresholds="For each tag the lowest from 0.4 on with an estimated precision of 0.65 on 3,630 photos, "
        "Flickr8k dev among them.",
    )  # fmt: skip


def ship(vocabulary_folder: Path, run: Path, out: Path, corpus: Corpus) -> None:
    """Writes the whole folder but for what is calibrated."""
    student = load_student(run, vocabulary_folder)
    root, size = corpus.root, student.network.config.size
    with tempfile.TemporaryDirectory() as folder:
        exact = Path(folder)
        export_folder_graphs(student.network, exact)
        train = [corpus.rows[n] for n in training_photos(corpus, QUANTIZATION)]
        report = quantize_image_graph(exact / IMAGE, out / IMAGE, pixels_of(train, root, size))
        shutil.copy(exact / TAGS, out / TAGS)
    write_queries(student, out / "queries.safetensors")
    if out.resolve() != EMBEDDED.resolve():
        shutil.copytree(EMBEDDED / "text", out / "text", dirs_exist_ok=True)
    write_projection(student, out / "text" / "projection.safetensors")
    corpus.vocabulary.write(out / "vocabulary.jsonl")
    shutil.copy(vocabulary_folder / "descriptions.jsonl", out / "descriptions.jsonl")
    write_card(out, replace(draft_card(student), metrics={"int8": asdict(report)}))


def calibrate(vocabulary_folder: Path, run: Path, out: Path, corpus: Corpus) -> None:
    """Fits scores and thresholds of a folder that `ship` wrote, with the very graphs that are shipped."""
    student = load_student(run, vocabulary_folder)
    numbers, truth, named = calibration_photos(corpus)
    pixels = pixels_of([corpus.rows[n] for n in numbers], corpus.root, student.network.config.size)
    card = ModelFolder.open(out, verify=False).card
    runtime = OnnxRuntime(ModelFolder.open(out, verify=False), device="cpu", threads=2)
    bank = Bank.read(out / "queries.safetensors", tags=len(named), width=card.width)
    queries = bank.queries(np.arange(len(named)))
    logits = logits_of(runtime, pixels, queries)
    known = np.isin(np.arange(len(named)), corpus.classes.tags)
    base, line = fit_lines(logits, truth, [named, ~named & known, ~named & ~known])
    # The user's own words are judged by the tags that captions name, asked without what training learned of
    # them.
    with torch.no_grad():
        words = student.queries(words_only=True)[:, :1].numpy()
    own = fit_calibration(logits_of(runtime, pixels, words[named]), truth[:, named])
    save_queries(out / "queries.safetensors", replace(bank, line=line))

    scores = sigmoid(line[:, 0] * (base.scale * logits + base.bias) + line[:, 1])
    for child, broader in enumerate(corpus.vocabulary.broader):  # as anytag.queries.score does
        for parent in broader:
            scores[:, parent] = np.maximum(scores[:, parent], scores[:, child])
            truth[:, parent] = np.maximum(truth[:, parent], truth[:, child])
    thresholds = fit_thresholds(scores, truth)
    tags = zip(corpus.vocabulary, thresholds, strict=True)
    Vocabulary([replace(tag, threshold=round(float(t), 2)) for tag, t in tags]).write(
        out / "vocabulary.jsonl"
    )

    dev = slice(0, int((corpus.split == "dev").sum()))
    exact = logits_of(TorchRuntime(student.network), pixels[dev], queries)
    lines = (line[:, 0] * base.scale, line[:, 0] * base.bias + line[:, 1])
    cost = int8_cost(logits[dev], exact, thresholds, lines=lines, truth=truth[dev], named=named)
    calibration = Calibration(Line(base.scale, base.bias), Line(own.scale, own.bias))
    metrics = {**card.metrics, "int8": {**card.metrics["int8"], **cost}}
    write_card(out, replace(card, calibration=calibration, metrics=metrics))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("rows", "cache", "vocabulary", "run", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--only-calibrate", action="store_true", help="leave graphs and queries as they are")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    corpus = Corpus.read(args.rows, Cache.read(args.cache), args.vocabulary)
    if not args.only_calibrate:
        ship(args.vocabulary, args.run, args.out, corpus)
    calibrate(args.vocabulary, args.run, args.out, corpus)


if __name__ == "__main__":
    main()
