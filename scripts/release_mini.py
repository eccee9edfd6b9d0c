"""Make the embedded model's folder from a training run.

    python -m scripts.release_mini ROWS CACHE VOCABULARY RUN OUT [--start-share 0.5]

Exports both graphs (compared with torch), quantises the image graph, writes queries, vocabulary and text
encoder, then calibrates scores and thresholds with the final graphs, on dev photos of all sources, which are
not trained on. The cache provides the teacher's labels for the tags that captions never mention.
--start-share interpolates the run's weights with those that it started from, which is better on photos of
other sources than either (WiSE-FT).
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import torch

from anytag._typing import AnyFloats, Floats
from anytag.calibration.fit import broader_pairs, fit_line, fit_offsets, probabilities
from anytag.data.rows import Row
from anytag.evaluation.metrics import mean_average_precision
from anytag.images import load, prepare
from anytag.models.card import Calibration, CaptionSpec, Card, Fewest, ImageSpec, Platt, TextSpec
from anytag.models.folder import ModelFolder, write_card
from anytag.models.registry import EMBEDDED, resolve
from anytag.queries.bank import Bank, identity_lines
from anytag.runtime.onnx import CAPTION, IMAGE, MEMORY, TAGS, OnnxRuntime, open_session
from anytag.scoring import sigmoid
from anytag.text_encoders.static import write_projection
from anytag.torch.checkpoints.load import DECODER, save_decoder
from anytag.torch.export.onnx_graphs import export_folder_graphs
from anytag.torch.export.static_int8.quantize import quantize_image_graph
from anytag.torch.nn.network import TagNetwork
from anytag.torch.runtime import TorchRuntime
from anytag.torch.training.feature_cache import open_cache
from anytag.torch.training.mini import build_student, sample
from anytag.torch.training.mini_init import start_from_folder
from anytag.torch.training.quantized_graph import QuantizedGraph
from anytag.torch.training.recipes import read_recipe
from anytag.torch.training.soft_labels import may_co_occur
from anytag.torch.training.stored_tags import make_bank
from anytag.torch.training.student import Student
from anytag.torch.training.tag_samples import StageFeatures, TagSamples
from anytag.vocabulary import Tag, Vocabulary
from scripts.prepare_data import word_repositories

# Number of training photos per source for fitting the quantisation.
QUANTIZATION = {
    "flickr8k": 112, "coco-more": 48, "imagenet": 64, "sun": 16, "food101": 16, "grocery": 16,
    "massive-memory": 16, "words": 16, "classes": 32,
}  # fmt: skip
GRID = np.round(np.arange(0.3, 0.995, 0.01), 2)
# Of 4,716 tags of 1,200 photos, 256 tags in the shortlist would give one more, 32 one less.
SHORTLIST = 48
# Without it 18 % of Flickr8k dev have fewer than 3 tags or more than 12, with it 5 %.
# Words of gender and of the kind of picture, whose thresholds are from 0.8 on, are never added.
FEWEST = Fewest(tags=3, share=0.75, max_threshold=0.75)
# Standard deviation of the prior of a tag's offset. 1.0 fits no better, and degrades the ranking of tags by
# name.
SPREAD = 0.5
# Training photos that are also used for calibration, because few others exist for these classes.
ALSO = {"imagenet": 400}
RESIDUAL = "queries.residual"
"""Parameter with the learned residual of each tag: K×D."""
PRECISION = 0.5
"""Target precision of default thresholds."""
NO_PHOTO_THRESHOLD = 0.4
"""Threshold of tags that no calibration photo may have."""


class Strict(NamedTuple):
    """Tags with a higher target precision and a minimum threshold."""

    precision: float
    least: float
    words: str = ""


# Wrong for most photos they nearly fit.
BROAD = Strict(0.8, 0.7)
# Words of gender or age, and words that describe a photo rather than a thing in it.
CAREFUL = Strict(
    0.9,
    0.8,
    "man woman boy girl child baby toddler teenager lady adult texture close-up indoor outdoor fashion text "
    "metal plastic portrait produce",
)
# The kind of picture or activity, which calibration photos show much more often than ordinary ones: from .99
# on they cost .03 to .14 of the recall there.
WHOLE = Strict(0.9, 0.99, "sport art drawing")
DESCRIPTION = "Tags photos with about 4,600 tags and any others that are asked in words; for a CPU."
TRAINING_DATA = (
    "Flickr8k train (6,000 photos with captions), 36,000 COCO photos with a caption each, about 1,750 "
    "labelled photos of ImageNet, SUN, Food-101 and GroceryStoreDataset, and about 72,000 labelled photos "
    "of collections on GitHub and of a package of Debian: miniplaces (rathull/CTFs), ccp "
    "(bearpaw/clothing-co-parsing), feedme (feedmejefferson/images), corel5k (ParkByungYoon/corel-5k), "
    "sketchy (sahibgoa/DCGAN-MNIST), vocab (dungnc), instruments30 (aizadaaskar/dl-homework), sports22 "
    "(jurjsorinliviu/Sports-Type-Classifier), idenprof (ninja3697/Profession-Detection-System), "
    "popular-animals (InputBlackBoxOutput), sea-animals (AbdulwahedA), monkey10 (nikhildutta333), office "
    "(Chima200057/PDE3802_CW1a), office8 (mh10a007), school (thanghd1112), trashnet (congduytran12), "
    "grocery (marcusklasson/GroceryStoreDataset, MIT), food101-3 (mybothy), pizza-icecream (ATG-5222), "
    "clothing (alexeygrigorev/clothing-dataset, CC0), houses (emanhamed/Houses-dataset), aid "
    "(zlima/testtensor), intel (afroozsheikh), pacs (MachineLearning2020/Homework3-PACS), drawn260 "
    "(psych750), clipart (adussa3), flowers5 (JoelOscarsson), dtd10 (pan8915/DeepTexture), carbike "
    "(arnavagrawal2701), sroie (zzzDavid/ICDAR-2019-SROIE), Massive Memory (Konkle and others, 2010, from "
    "NatalieBiderman/Categories_fMRI_MTurk), and photos of words and in folders by class "
    f"({', '.join(dict.fromkeys(one.repository for one in word_repositories()))}). "
    "ImageNet weights of EfficientNet-Lite0 (Apache-2.0) and version 12 of this model as the start; words "
    "from all-MiniLM-L6-v2 (Apache-2.0); names and descriptions of new tags by a language model. Most of "
    "these photos are for research only or of terms not told, COCO's have licences of their own, Tux "
    "Paint's stamps are GPL-2; some photos of words are from image generators; no photo is part of the "
    "model."
)
LICENCE = "Apache-2.0 (weights; see training_data for the terms of the photos)"


def load_student(run: Path, vocabulary: Path, *, start_share: float = 0.0) -> Student:
    """Load the trained student, with averaged weights.

    Args:
        start_share: weight of the run's starting weights in an interpolation with the trained ones. Residuals
            of tags that the starting model does not have, or that have changed their meaning, are not
            interpolated.
    """
    recipe = replace(read_recipe(run / "recipe.json"), vocabulary=str(vocabulary))
    student, _ = build_student(recipe)
    trained = torch.load(run / "student.pt", weights_only=True)
    if start_share:
        folder, tags = (
            ModelFolder.open(resolve(recipe.start)),
            Vocabulary.read(vocabulary / "vocabulary.jsonl"),
        )
        start_from_folder(student, folder, vocabulary=tags)
        before, learned = student.state_dict(), trained[RESIDUAL]
        trained = {name: torch.lerp(w, before[name], start_share) for name, w in trained.items()}
        known = Vocabulary.read(folder.file("vocabulary.jsonl"))
        own = torch.tensor([is_other(tag, known) for tag in tags])
        trained[RESIDUAL][own] = learned[own]
    student.load_state_dict(trained)
    return student.eval()


def is_other(tag: Tag, known: Vocabulary) -> bool:
    """Whether a vocabulary lacks a tag, or has it with other words or parents that it no longer has."""
    if tag.id not in known:
        return True
    before = known[known.index(tag.id)]
    lost = {before.name, *before.synonyms} - {tag.name, *tag.synonyms}
    return bool(lost or {*before.parents} - {*tag.parents})


def write_queries(student: Student, path: Path) -> None:
    """Write rows in int8 with a scale each, the first pass's weights, and identity lines."""
    with torch.no_grad():
        rows = student.queries().numpy()
    make_bank(student.network.folded, rows, identity_lines(len(rows)), known=Platt(1.0, 0.0)).write(path)


def pixels_of(rows: list[Row], root: Path, size: int) -> npt.NDArray[np.uint8]:
    """Preprocess photos: uint8 N×3×S×S."""
    return np.stack([prepare(load(root / row.image, min_side=size), size=size) for row in rows])


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
    """The effect of quantisation: logits of both graphs and labels N×K; thresholds, slopes and biases K."""
    given, given_exact = (sigmoid(lines[0] * logits + lines[1]) >= thresholds for logits in (integer, exact))
    present = truth[:, named] > 0.5
    return {
        "mAP_float32": mean_average_precision(exact[:, named], present, at_least=5)[0],
        "mAP_int8": mean_average_precision(integer[:, named], present, at_least=5)[0],
        "largest_logit_difference": float(np.abs(integer - exact).max()),
        "given_tags_that_flip": float((given != given_exact).sum() / max(1, given_exact.sum())),
    }


def training_photos(corpus: TagSamples, counts: Mapping[str, int]) -> npt.NDArray[np.int64]:
    """Random training photos, a given number of each source, in random order."""
    draw, found = np.random.default_rng(0), []
    for source, count in counts.items():
        found.append(
            draw.permutation(np.flatnonzero((corpus.split == "train") & (corpus.source == source)))[:count]
        )
    return draw.permutation(np.concatenate(found))


@dataclass(frozen=True)
class CalibrationPhotos:
    """Photos that were not trained on, with labels.

    Attributes:
        numbers: int64 N, indices of the rows.
        truth: float32 N×K in [0, 1].
        weight: float32 N×K, confidence of the labels; 0 where they are unknown.
        named: K, whether captions mention a tag.
    """

    numbers: npt.NDArray[np.int64]
    truth: Floats
    weight: Floats
    named: npt.NDArray[np.bool_]


def calibration_photos(corpus: TagSamples) -> CalibrationPhotos:
    """Select photos for calibration: split "dev" of every source, and some of `ALSO`.

    With five captions, tags that captions mention at all are absent if not mentioned. A single caption omits
    too much, so for such photos only closed lists of labels count. A label is the main subject: rival
    subjects are absent, other things and actions in the photo are less certain, and little is known of
    attributes.
    """
    dev = np.flatnonzero(corpus.split == "dev")
    rest = (dev[corpus.source[dev] != "flickr8k"], training_photos(corpus, ALSO))
    dev = np.concatenate([dev[corpus.source[dev] == "flickr8k"], *rest])
    truth = corpus.present[dev].astype(np.float32)
    weight = (corpus.trust[dev] >= 100).astype(np.float32)
    for at, number in enumerate(dev):
        captions, subject = len(corpus.rows[number].captions), corpus.subject[number]
        if captions > 1:
            weight[at] = np.where(corpus.mentioned, 1, 0.1)
        elif captions == 1:
            closed = corpus.labeler.labels((*corpus.rows[number].tags, *corpus.rows[number].absent))
            weight[at] *= np.isin(np.arange(len(corpus.mentioned)), list(closed))
        elif subject >= 0:
            absent, uncertain = np.where(corpus.co_occurring, 0.3, 1), np.where(corpus.is_action, 0.3, 0.1)
            unlabelled = np.where(corpus.rivals[subject], absent, uncertain)
            weight[at] = np.where(weight[at] > 0, 1, unlabelled)
    return CalibrationPhotos(dev, truth, weight, corpus.mentioned)


def fit_thresholds(
    scores: AnyFloats,
    truth: AnyFloats,
    *,
    weight: AnyFloats | None = None,
    precision: float | AnyFloats = 0.65,
    default: float = 0.5,
    prior: float = 4.0,
) -> npt.NDArray[np.float64]:
    """Find for every tag the lowest threshold whose estimated precision reaches `precision`.

    The estimate combines the counts with the precision expected from the calibrated scores, with the weight
    of `prior` photos, so that a tag seen three times is not judged by three photos. If no threshold of the
    grid suffices, the highest with any prediction is used, and 0.99 at most.

    Args:
        scores: N×K calibrated probabilities.
        truth: N×K in [0, 1].
        weight: N×K, weight of each entry; 1 by default.
        precision: of all tags, or K values.
        default: for tags that never score above the lowest threshold of the grid.

    Returns:
        K thresholds in [0.4, 0.99].
    """
    thresholds = np.full(scores.shape[1], default)
    targets = np.broadcast_to(precision, scores.shape[1])
    for tag in range(scores.shape[1]):
        p, y = scores[:, tag], truth[:, tag]
        order = np.argsort(-p)
        p, y = p[order], y[order]
        w = np.ones_like(p) if weight is None else weight[order, tag].astype(p.dtype)
        predicted = np.searchsorted(-p, -GRID, side="right")  # photos at or above each threshold
        if predicted[0] == 0:
            continue
        hits, expected, known = (np.concatenate([[0], part.cumsum()]) for part in (w * y, p, w))
        mean_score = expected[predicted] / np.maximum(predicted, 1)
        estimate = (hits[predicted] + prior * mean_score) / np.maximum(known[predicted] + prior, 1e-9)
        good = np.flatnonzero((estimate >= targets[tag]) & (predicted > 0))
        thresholds[tag] = GRID[good[0]] if len(good) else GRID[np.flatnonzero(predicted > 0)[-1]]
    return thresholds


def thresholds_note(photos: int) -> str:
    return (
        f"For each tag the lowest from {GRID[0]:g} on with an estimated precision of {PRECISION} (broad "
        f"words {BROAD.precision} and from {BROAD.least} on, words of sex and age {CAREFUL.precision} and "
        f"from {CAREFUL.least} on, of the kind of picture from {WHOLE.least} on) on {photos:,} photos of all "
        "sources, Flickr8k dev among them."
    )


def draft_card(student: Student) -> Card:
    """The card without calibration and metrics."""
    config = student.network.config
    spec = ImageSpec(size=config.size, resample="bilinear", mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    line = Platt(1.0, 0.0)
    return Card(
        name="mini", family="mini", version="13", description=DESCRIPTION, image=spec, width=config.width,
        text=TextSpec(kind="static", folder="text"), calibration=Calibration(vocabulary=line, own=line),
        shortlist=SHORTLIST, fewest=FEWEST, licence=LICENCE, training_data=TRAINING_DATA, metrics={},
        files={}, thresholds="",
    )  # fmt: skip


def write_model(student: Student, vocabulary_folder: Path, run: Path, out: Path, corpus: TagSamples) -> None:
    """Write the whole folder, except for the calibration."""
    report = write_graphs(student, run, out, corpus)
    write_queries(student, out / "queries.safetensors")
    if out.resolve() != EMBEDDED.resolve():
        shutil.copytree(EMBEDDED / "text", out / "text", dirs_exist_ok=True)
    write_projection(student.queries.projection.arrays(), out / "text")
    corpus.vocabulary.write(out / "vocabulary.jsonl")
    shutil.copy(vocabulary_folder / "descriptions.jsonl", out / "descriptions.jsonl")
    card = replace(draft_card(student), metrics={"int8": report})
    write_card(out, replace(card, captions=keep_captions(student, run, out)))


def keep_captions(student: Student, run: Path, out: Path) -> CaptionSpec | None:
    """Copy the start's caption head, if the image tokens are unchanged; returns its settings."""
    start = read_recipe(run / "recipe.json").start
    if not start or student.trained < len(student.network.encoder.backbone.stages):
        return None
    folder = ModelFolder.open(resolve(start))
    spec = folder.card.captions
    if spec is not None:
        for name in (MEMORY, CAPTION, spec.wordpieces):
            shutil.copy(folder.file(name), out / name)
    return spec


def write_graphs(student: Student, run: Path, out: Path, corpus: TagSamples) -> dict[str, float]:
    """Write image.onnx in int8 and tags.onnx; returns the deviation of int8 from float32.

    If a run trained no stage, the stages of the folder that it started from are used unchanged.
    """
    root, network = corpus.root, student.network
    train = [corpus.rows[n] for n in training_photos(corpus, QUANTIZATION)]
    pixels = pixels_of(train, root, network.config.size)
    start = read_recipe(run / "recipe.json").start
    evidence, network.encoder.evidence = network.encoder.evidence, None
    with tempfile.TemporaryDirectory() as folder:
        exact = Path(folder)
        export_folder_graphs(network, exact)
        if student.trained < len(network.encoder.backbone.stages) or not start:
            quantize_image_graph(exact / IMAGE, out / IMAGE, pixels)
        else:
            shutil.copy(ModelFolder.open(resolve(start)).file(IMAGE), out / IMAGE)
        shutil.copy(exact / TAGS, out / TAGS)
    save_decoder(network.folded, out / DECODER)
    network.encoder.evidence = evidence
    if evidence is not None:
        with torch.no_grad():
            late = student.encode(sample(corpus)).features
        assert late is not None
        onnx.save(QuantizedGraph(out / IMAGE).with_evidence(evidence, late), out / IMAGE)
    return _cosines(network, out / IMAGE, pixels[:64])


def _cosines(network: TagNetwork, file: Path, pixels: npt.NDArray[np.uint8]) -> dict[str, float]:
    session = open_session(file)
    found, exact = session.run(["tokens", "pooled"], {"pixels": pixels}), TorchRuntime(network).encode(pixels)
    return {
        "cosine_tokens": _cosine(found[0], exact[0]),
        "cosine_pooled": _cosine(found[1], exact[1]),
        "bytes": float(file.stat().st_size),
    }


def _cosine(a: Floats, b: Floats) -> float:
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return float(((a * b).sum(-1) / np.maximum(norms, 1e-12)).mean())


def default_thresholds(
    vocabulary: Vocabulary, scores: AnyFloats, truth: AnyFloats, weight: AnyFloats
) -> npt.NDArray[np.float64]:
    """Fit K thresholds for each tag's target precision.

    Args:
        scores, truth, weight: N×K.
    """
    precision, least = np.full(len(vocabulary), PRECISION), np.zeros(len(vocabulary))
    for strict in (BROAD, CAREFUL, WHOLE):
        words = strict.words.split()
        some = np.array([tag.id in words for tag in vocabulary]) if words else ~may_co_occur(vocabulary)
        precision[some], least[some] = strict.precision, strict.least
    thresholds = fit_thresholds(scores, truth, weight=weight, precision=precision, default=NO_PHOTO_THRESHOLD)
    return np.maximum(thresholds, least)


def calibrate(student: Student, run: Path, out: Path, corpus: TagSamples) -> None:
    """Calibrate a folder written by `write_model`, with its own graphs."""
    photos = calibration_photos(corpus)
    truth, weight, named = photos.truth, photos.weight, photos.named
    pixels = pixels_of([corpus.rows[n] for n in photos.numbers], corpus.root, student.network.config.size)
    card = ModelFolder.open(out, verify=False).card
    runtime = OnnxRuntime(ModelFolder.open(out, verify=False), device="cpu", threads=2)
    bank = Bank.read(out / "queries.safetensors", tags=len(named), width=card.width)
    queries = bank.queries(np.arange(len(named)))
    logits = logits_of(runtime, pixels, queries)
    np.save(run / "calibration-logits.npy", logits.astype(np.float16))
    # One line for all tags: a line for each kind would change the ranking between kinds.
    base = fit_line(logits, truth, weight=weight)
    offsets = fit_offsets(base.scale * logits + base.bias, truth, weight=weight, spread=SPREAD)
    line = np.stack([np.ones_like(offsets), offsets], axis=1).astype(np.float32)
    # Custom tags are calibrated with the tags of the vocabulary, queried by their words without the
    # residuals.
    with torch.no_grad():
        words = student.queries(words_only=True)[:, :1].numpy()
    some = np.arange(0, len(named), 4)
    own = fit_line(logits_of(runtime, pixels, words[some]), truth[:, some], weight=weight[:, some])
    replace(bank, line=line).write(out / "queries.safetensors")

    log_odds, known = base.scale * logits + base.bias, line.astype(np.float64)
    scores = probabilities(log_odds, known, broader_pairs(list(corpus.vocabulary.broader)))
    thresholds = default_thresholds(corpus.vocabulary, scores, truth, weight)
    tags = zip(corpus.vocabulary, thresholds, strict=True)
    Vocabulary([replace(tag, threshold=round(float(t), 2)) for tag, t in tags]).write(
        out / "vocabulary.jsonl"
    )

    dev = slice(0, int((corpus.source[photos.numbers] == "flickr8k").sum()))
    exact = logits_of(TorchRuntime(student.network), pixels[dev], queries)
    lines = (line[:, 0] * base.scale, line[:, 0] * base.bias + line[:, 1])
    cost = int8_cost(logits[dev], exact, thresholds, lines=lines, truth=truth[dev], named=named)
    metrics = {**card.metrics, "int8": {**card.metrics["int8"], **cost}}
    card = replace(card, calibration=Calibration(base, own), thresholds=thresholds_note(len(truth)))
    write_card(out, replace(card, metrics=metrics))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("rows", "cache", "vocabulary", "run", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--only-calibrate", action="store_true", help="do not write graphs and queries")
    parser.add_argument("--start-share", type=float, default=0.0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    corpus = TagSamples.read(args.rows, StageFeatures.of(open_cache(args.cache)), args.vocabulary)
    student = load_student(args.run, args.vocabulary, start_share=args.start_share)
    if not args.only_calibrate:
        write_model(student, args.vocabulary, args.run, args.out, corpus)
    calibrate(student, args.run, args.out, corpus)


if __name__ == "__main__":
    main()
