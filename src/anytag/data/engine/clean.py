"""The data engine's second half (RAM, section 3.3): tags that contradict the picture are taken away.

Each tag has a region in each photo: where the tag decoder sees it, or what a detector finds. Over the photos
of a tag, the regions' features are clustered; the regions furthest from all clusters are outliers. A tag goes
when its region is an outlier, or when the model, looking at the region alone, does not see the tag.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from anytag._typing import Bools, Floats, Halves
from anytag.batching import batches
from anytag.data.engine.generate import BLOCK, names_known, read_photo, why
from anytag.data.labels import Labeler
from anytag.data.rows import OnError, Row
from anytag.errors import AnytagError
from anytag.images import ImageSource
from anytag.localization import box_of, heat_maps
from anytag.results import Box
from anytag.scoring import sigmoid
from anytag.tagger import Encoded, Tagger


@dataclass(frozen=True)
class Region:
    """Where a detector sees a thing; the box is in pixels of the upright original."""

    label: str
    box: Box


class Detector(Protocol):
    """Finds things in a photo; the first region of a label counts."""

    def __call__(self, photo: ImageSource, /) -> Sequence[Region]: ...


@dataclass(frozen=True)
class CleanConfig:
    """When a tag goes.

    Attributes:
        seen: probability of the tag in its region below which the model does not see it.
        outliers: share of a tag's regions that lie furthest from the clusters.
        clusters: of one tag's regions: what a tag can look like.
        at_least: photos from which a tag's regions are clustered at all.
        origins: tags of other origins are left alone.
    """

    seen: float = 0.02
    outliers: float = 0.05
    clusters: int = 4
    at_least: int = 20
    origins: tuple[str, ...] = ("text", "model")


@dataclass(frozen=True)
class Evidence:
    """What a photo says of one of its tags: the region's feature, float16 D of length 1, and probability."""

    feature: Halves
    probability: float


def clean(
    rows: Sequence[Row],
    root: str,
    tagger: Tagger,
    *,
    config: CleanConfig | None = None,
    detector: Detector | None = None,
    workers: int = 2,
    on_error: OnError | None = None,
) -> Iterator[Row]:
    """The rows without the tags that contradict the picture; each row records them.

    Args:
        rows: read twice; a kilobyte or so is held for each tag of each.
        root: the folder that their photos are relative to.
        tagger: the model that looks.
        config: when a tag goes.
        detector: gives the regions; a tag that it does not find has the decoder's.
        workers: threads.
        on_error: takes the message of a photo that cannot be read; its row stays as it is.
    """
    config = config or CleanConfig()
    labeler = Labeler(tagger.vocabulary)
    look = partial(_look, root=root, tagger=tagger, labeler=labeler, config=config, detector=detector)
    evidence: list[dict[str, Evidence]] = []
    with ThreadPoolExecutor(workers, thread_name_prefix="anytag-data") as pool:
        for block in batches(rows, BLOCK):
            for row, result in zip(block, pool.map(look, block), strict=True):
                if isinstance(result, str) and on_error:
                    on_error(f"{row.image}: {why(row, root, result)}")
                evidence.append({} if isinstance(result, str) else result)
    far = _outliers_by_tag(evidence, config)
    for number, (row, by_name) in enumerate(zip(rows, evidence, strict=True)):
        removed_names = {
            name for name, one in by_name.items() if one.probability < config.seen or (number, name) in far
        }
        yield row.cleaning(removed_names - _implied(row, removed_names, labeler))


def _implied(row: Row, removed_names: set[str], labeler: Labeler) -> set[str]:
    """What is broader than a tag that stays: a cat that is there keeps the animal."""
    stay = [name for name in row.tags if name not in removed_names]
    return {labeler.vocabulary[column].name for column in labeler.labels(stay)}


def _look(
    row: Row, *, root: str, tagger: Tagger, labeler: Labeler, config: CleanConfig, detector: Detector | None
) -> dict[str, Evidence] | str:
    """Evidence for each tag that may go, or why the photo cannot be read."""
    names = names_known(row, labeler, config.origins)
    photo = read_photo(row, root)
    if photo.error or not names:
        return photo.error or {}
    try:
        encoded = tagger.encode(photo.source)
        tagger_evidence = _TaggerEvidence(tagger, labeler, names)
        boxes = tagger_evidence.boxes(encoded)
        if detector is not None:
            detections = detector(photo.source)
            boxes |= {region.label: region.box for region in reversed(detections) if region.label in boxes}
    except AnytagError as error:
        return str(error)
    return {name: tagger_evidence.evidence(encoded, number, boxes[name]) for number, name in enumerate(names)}


class _TaggerEvidence:
    """Tags that the model is asked about one photo, each with its own query alone."""

    def __init__(self, tagger: Tagger, labeler: Labeler, names: Sequence[str]) -> None:
        ids = [labeler.label(name) or name for name in names]
        self.runtime, self.names = tagger.runtime, names
        self.queries, (self.slope, self.bias) = tagger.trained(ids)

    def boxes(self, encoded: Encoded) -> dict[str, Box]:
        """Where the decoder sees each tag; the whole photo where it does not."""
        whole = Box(0, 0, encoded.width, encoded.height)
        where = self.runtime.locate(encoded.tokens[None], encoded.pooled[None], self.queries[None])[0]
        heats = heat_maps(where)
        found = (box_of(heat, width=encoded.width, height=encoded.height) for heat in heats)
        return {name: box or whole for name, box in zip(self.names, found, strict=True)}

    def evidence(self, encoded: Encoded, number: int, box: Box) -> Evidence:
        """What the box, looked at alone, says of tag `number`."""
        tokens = encoded.tokens[tokens_in(encoded, box)]
        mean = tokens.mean(0)
        query = self.queries[None, number : number + 1]
        logit = float(self.runtime.score(tokens[None], mean[None], query)[0, 0])
        odds = self.slope[number] * logit + self.bias[number]
        length = max(float(np.linalg.norm(mean)), 1e-12)
        return Evidence((mean / length).astype(np.float16), float(sigmoid(np.asarray(odds))))


def tokens_in(encoded: Encoded, box: Box) -> Bools:
    """Which of the photo's tokens have their middle in a box, or the nearest one: bool T."""
    count = len(encoded.tokens)
    side = math.isqrt(count)
    middle = (np.arange(side) + 0.5) / side
    across, down = middle * encoded.width, middle * encoded.height
    columns = (across >= box.left) & (across < box.right)
    rows = (down >= box.top) & (down < box.bottom)
    if not columns.any():
        columns[np.abs(across - (box.left + box.right) / 2).argmin()] = True
    if not rows.any():
        rows[np.abs(down - (box.top + box.bottom) / 2).argmin()] = True
    summary = np.zeros(count - side * side, bool)  # a token of the whole photo lies nowhere
    return np.concatenate([summary, (rows[:, None] & columns).ravel()])


def _outliers_by_tag(evidence: Sequence[dict[str, Evidence]], config: CleanConfig) -> set[tuple[int, str]]:
    """Row numbers and tags whose regions are outliers among the tag's."""
    places: dict[str, list[int]] = {}
    for number, by_name in enumerate(evidence):
        for name in by_name:
            places.setdefault(name, []).append(number)
    far: set[tuple[int, str]] = set()
    for name, numbers in places.items():
        if len(numbers) >= config.at_least:
            features = np.stack([evidence[number][name].feature for number in numbers]).astype(np.float32)
            odd = outliers(features, clusters=config.clusters, share=config.outliers)
            far |= {(numbers[at], name) for at in np.flatnonzero(odd)}
    return far


def outliers(features: Floats, *, clusters: int, share: float) -> Bools:
    """Which of N unit vectors lie furthest from the centres of their clusters: N×D -> N, `share` of them."""
    count = int(share * len(features))
    likeness = (features @ cluster(features, clusters).T).max(1)
    odd = np.zeros(len(features), bool)
    odd[np.argsort(likeness, kind="stable")[:count]] = True
    return odd


def cluster(features: Floats, count: int, *, steps: int = 10, seed: int = 0) -> Floats:
    """Centres of spherical k-means with k-means++ starts: N×D -> C×D, C up to `count`, of length 1."""
    random = np.random.default_rng(seed)
    centres: Floats = features[random.integers(len(features))][None]
    while len(centres) < count:
        distance = (1 - (features @ centres.T).max(1)).clip(0)
        if distance.sum() <= 0:  # no more different vectors
            break
        pick = random.choice(len(features), p=distance / distance.sum())
        centres = np.concatenate([centres, features[pick][None]])
    for _ in range(steps):
        nearest = (features @ centres.T).argmax(1)
        sums = np.stack([features[nearest == number].sum(0) for number in range(len(centres))])
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(lengths > 1e-6, sums / np.maximum(lengths, 1e-12), centres)
    return centres
