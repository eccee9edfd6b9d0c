"""The cleaning stage of the data engine (RAM, section 3.3): removes tags that contradict the photo.

Each tag has a region in each photo, from the tag decoder or a detector. The features of a tag's regions are
clustered over all photos; the regions furthest from all clusters are outliers. A tag is removed if its region
is an outlier, or if the model does not recognise the tag in the region alone.
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
from anytag.data.engine.generate import BLOCK, known_names, read_photo, why
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
    """A detected object; the box is in pixels of the upright original."""

    label: str
    box: Box


class Detector(Protocol):
    """Detects objects in a photo; the first region of a label is used."""

    def __call__(self, photo: ImageSource, /) -> Sequence[Region]: ...


@dataclass(frozen=True)
class CleanConfig:
    """Thresholds for removing tags.

    Attributes:
        seen: minimum probability of the tag in its region.
        outliers: share of a tag's regions, furthest from the clusters, that are outliers.
        clusters: number of clusters of a tag's regions.
        at_least: minimum number of photos for clustering a tag's regions.
        origins: tags of other origins are not removed.
    """

    seen: float = 0.02
    outliers: float = 0.05
    clusters: int = 4
    at_least: int = 20
    origins: tuple[str, ...] = ("text", "model")


@dataclass(frozen=True)
class Evidence:
    """Evidence for a tag in a photo: feature of its region, float16 D of length 1, and probability."""

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
    """Remove the tags that contradict the photos, recorded in each row.

    Args:
        rows: read twice; about a kilobyte per tag is kept in memory.
        root: folder that the photos' paths are relative to.
        tagger: the model that evaluates regions.
        config: thresholds.
        detector: provides regions; for tags that it does not find, the decoder's are used.
        workers: number of threads.
        on_error: called with the message for each photo that cannot be read; its row is unchanged.
    """
    config = config or CleanConfig()
    labeler = Labeler(tagger.vocabulary)
    gather = partial(
        _gather_evidence, root=root, tagger=tagger, labeler=labeler, config=config, detector=detector
    )
    evidence: list[dict[str, Evidence]] = []
    with ThreadPoolExecutor(workers, thread_name_prefix="anytag-data") as pool:
        for block in batches(rows, BLOCK):
            for row, result in zip(block, pool.map(gather, block), strict=True):
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
    """Names of tags that are kept, and of their broader tags: if a cat is kept, so is the animal."""
    kept = [name for name in row.tags if name not in removed_names]
    return {labeler.vocabulary[column].name for column in labeler.labels(kept)}


def _gather_evidence(
    row: Row, *, root: str, tagger: Tagger, labeler: Labeler, config: CleanConfig, detector: Detector | None
) -> dict[str, Evidence] | str:
    """Evidence for each tag that may be removed, or why the photo cannot be read."""
    names = known_names(row, labeler, config.origins)
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
    """Evidence for tags of one photo, from each tag's own query."""

    def __init__(self, tagger: Tagger, labeler: Labeler, names: Sequence[str]) -> None:
        ids = [labeler.label(name) or name for name in names]
        self.runtime, self.names = tagger.runtime, names
        self.queries, (self.slope, self.bias) = tagger.trained(ids)

    def boxes(self, encoded: Encoded) -> dict[str, Box]:
        """The region of each tag in the decoder; the whole photo if there is none."""
        whole = Box(0, 0, encoded.width, encoded.height)
        evidence = self.runtime.locate(encoded.tokens[None], encoded.pooled[None], self.queries[None])[0]
        heats = heat_maps(evidence)
        found = (box_of(heat, width=encoded.width, height=encoded.height) for heat in heats)
        return {name: box or whole for name, box in zip(self.names, found, strict=True)}

    def evidence(self, encoded: Encoded, number: int, box: Box) -> Evidence:
        """Evidence for tag `number` from the tokens in a box alone."""
        tokens = encoded.tokens[tokens_in(encoded, box)]
        mean = tokens.mean(0)
        query = self.queries[None, number : number + 1]
        logit = float(self.runtime.score(tokens[None], mean[None], query)[0, 0])
        odds = self.slope[number] * logit + self.bias[number]
        length = max(float(np.linalg.norm(mean)), 1e-12)
        return Evidence((mean / length).astype(np.float16), float(sigmoid(np.asarray(odds))))


def tokens_in(encoded: Encoded, box: Box) -> Bools:
    """Mask of the tokens whose centres are in a box, or the nearest one: bool T."""
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
    summary = np.zeros(count - side * side, bool)  # the token of the whole photo has no position
    return np.concatenate([summary, (rows[:, None] & columns).ravel()])


def _outliers_by_tag(evidence: Sequence[dict[str, Evidence]], config: CleanConfig) -> set[tuple[int, str]]:
    """Row indices and tags whose regions are outliers."""
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
    """Mask of the `share` of N unit vectors furthest from the centres of their clusters: N×D -> N."""
    count = int(share * len(features))
    likeness = (features @ cluster(features, clusters).T).max(1)
    odd = np.zeros(len(features), bool)
    odd[np.argsort(likeness, kind="stable")[:count]] = True
    return odd


def cluster(features: Floats, count: int, *, steps: int = 10, seed: int = 0) -> Floats:
    """Centres of spherical k-means with k-means++ initialisation, unit vectors: N×D -> C×D, C ≤ `count`."""
    random = np.random.default_rng(seed)
    centres: Floats = features[random.integers(len(features))][None]
    while len(centres) < count:
        distance = (1 - (features @ centres.T).max(1)).clip(0)
        if distance.sum() <= 0:  # no more distinct vectors
            break
        pick = random.choice(len(features), p=distance / distance.sum())
        centres = np.concatenate([centres, features[pick][None]])
    for _ in range(steps):
        nearest = (features @ centres.T).argmax(1)
        sums = np.stack([features[nearest == number].sum(0) for number in range(len(centres))])
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(lengths > 1e-6, sums / np.maximum(lengths, 1e-12), centres)
    return centres
