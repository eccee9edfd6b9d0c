"""Learn new tags for a frozen model: only a residual of each tag's query and an offset are trained.

Image encoder and decoder are frozen, so a photo's tokens are computed once and cached. A tag has a residual,
which is added to its rows, and an offset of its logit. Other tags do not change, so nothing is forgotten.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from anytag._typing import Floats, Ints
from anytag.batching import usable_cores
from anytag.errors import AnytagError
from anytag.images import load
from anytag.runtime.onnx import OnnxRuntime
from anytag.torch.nn.folded_decoder import FoldedDecoder
from anytag.torch.training.feature_cache import view
from anytag.torch.training.labels import Labels
from anytag.torch.training.report import Progress, Reporter

BATCH = 64
SAMPLED = 512
"""Maximum number of tags per step: more would cost more than the photos."""
MIN_STEPS = 200
RATE, OFFSET_RATE, DECAY = 2e-3, 3e-2, 3.0
"""Chosen on Food-101, SUN and GroceryStoreDataset with 8 to 20 photos per tag: a factor of 3 either way costs
a few points. Weight decay pulls a residual to 0, that is, a tag to its words."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """Outputs of the frozen encoder for M views.

    Attributes:
        values: float16 M×T×D, image tokens, on disk.
        pooled: float32 M×D.
        photo: int64 M, the row of each view; its first view is the plain photo.
        failed: reason for each row whose photo cannot be read.
    """

    values: npt.NDArray[np.float16]
    pooled: Floats
    photo: Ints
    failed: dict[int, str]

    def plain(self) -> Ints:
        """Indices of the views that are plain photos."""
        return np.flatnonzero(np.diff(self.photo, prepend=-1))


def encode_photos(
    runtime: OnnxRuntime, paths: Sequence[Path], file: Path, *, views: int, report: Reporter
) -> Tokens:
    """Encode `views` views of every photo (plain, mirrored, random crops) and write tokens to `file`."""
    size = runtime.folder.card.image.size
    blank, _ = runtime.encode(np.zeros((1, 3, size, size), np.uint8))
    shape = (len(paths) * views, *blank.shape[1:])
    values = np.lib.format.open_memmap(file, mode="w+", dtype=np.float16, shape=shape)
    pooled = np.zeros((len(values), shape[2]), np.float32)
    failed: dict[int, str] = {}

    def encode(number: int) -> None:
        draw = random.Random(number)
        try:
            photo = load(paths[number], min_side=size)
        except AnytagError as error:
            failed[number] = str(error)
            return
        pixels = np.stack([view(photo, which, size=size, draw=draw) for which in range(views)])
        rows = slice(number * views, (number + 1) * views)
        values[rows], pooled[rows] = runtime.encode(pixels)

    with ThreadPoolExecutor(usable_cores()) as pool:
        for done, _ in enumerate(pool.map(encode, range(len(paths))), 1):
            report.progress(Progress("read photos", done, len(paths), unit="photos"))
    photo = np.repeat(np.arange(len(paths)), views)
    readable = ~np.isin(photo, list(failed))
    return Tokens(values if readable.all() else values[readable], pooled[readable], photo[readable], failed)


@dataclass(frozen=True, eq=False)
class LearnedTags:
    """Learned parameters of K tags: residual float32 K×D and offset float32 K."""

    residual: Floats
    offset: Floats

    def rows(self, words: Floats) -> Floats:
        """Add the residuals to rows K×P×D; padding stays zero."""
        rows: Floats = words + self.residual[:, None] * (words != 0).any(-1, keepdims=True)
        return rows

    def only(self, tags: npt.NDArray[np.bool_]) -> LearnedTags:
        """The parameters with those of other tags set to zero."""
        return LearnedTags(self.residual * tags[:, None], self.offset * tags)


def learn(
    decoder: FoldedDecoder,
    tokens: Tokens,
    words: Floats,
    labels: Labels,
    *,
    train_rows: Ints,
    epochs: int | None,
    seed: int = 0,
    report: Reporter | None = None,
) -> LearnedTags:
    """Learn K residuals and offsets by weighted binary cross-entropy.

    Args:
        words: float32 K×P×D, the tags' rows without residuals; a row of zeros is padding.
        labels: labels of all rows.
        train_rows: indices of the training rows.
        epochs: epochs over all views; None: enough for 200 steps.
    """
    views = np.flatnonzero(np.isin(tokens.photo, train_rows))
    per_epoch = math.ceil(len(views) / BATCH)
    steps = per_epoch * (epochs or max(12, math.ceil(MIN_STEPS / per_epoch)))
    generator = torch.Generator().manual_seed(seed)
    task = _Task(decoder, words, labels)
    residual = torch.zeros(len(words), words.shape[2], requires_grad=True)
    offset = torch.zeros(len(words), requires_grad=True)
    groups = [
        {"params": [residual], "lr": RATE, "weight_decay": DECAY, "peak": RATE},
        {"params": [offset], "lr": OFFSET_RATE, "weight_decay": 0.0, "peak": OFFSET_RATE},
    ]
    optimizer = torch.optim.AdamW(groups)
    order = torch.empty(0, dtype=torch.int64)
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.from_numpy(views)[torch.randperm(len(views), generator=generator)]
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * 0.5 * (1 + math.cos(math.pi * step / steps))
        at = order[step % per_epoch * BATCH :][:BATCH].numpy()
        sampled = torch.randperm(len(words), generator=generator)[:SAMPLED]
        loss = task.loss(tokens, at, sampled, residual, offset)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if report is not None and step % 10 == 9:
            report.progress(Progress("train", step + 1, steps, terms={"loss": loss.item()}))
    return LearnedTags(residual.detach().numpy(), offset.detach().numpy())


class _Task:
    """The loss of a batch of views."""

    def __init__(self, decoder: FoldedDecoder, words: Floats, labels: Labels) -> None:
        self.decoder = decoder.requires_grad_(False).eval()
        self.words = torch.from_numpy(words)
        self.real = (self.words != 0).any(-1, keepdim=True)  # K×P×1
        self.present, self.weight = torch.from_numpy(labels.present), torch.from_numpy(labels.weight)
        self.class_weights = torch.from_numpy(labels.class_weights())

    def loss(self, tokens: Tokens, at: Ints, columns: Tensor, residual: Tensor, offset: Tensor) -> Tensor:
        """Mean over photos of the sum over tags, scaled up from the sampled tags to all."""
        rows = self.words[columns] + residual[columns, None] * self.real[columns]
        batch_tokens = torch.from_numpy(tokens.values[at].astype(np.float32))
        pooled = torch.from_numpy(tokens.pooled[at])
        logits = self.decoder(batch_tokens, pooled, rows[None]) + offset[columns]
        photos = torch.from_numpy(tokens.photo[at])[:, None]
        target, weight = self.present[photos, columns], self.weight[photos, columns]
        weight = weight * torch.where(target > 0, self.class_weights[columns], 1.0)
        loss = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum")
        return loss / len(at) * (len(self.words) / len(columns))


def logits_of_views(
    decoder: FoldedDecoder, tokens: Tokens, views: Ints, rows: Floats, offset: Floats
) -> Floats:
    """Logits of K tags in some views: N×K."""
    out = []
    with torch.inference_mode():
        for at in np.array_split(views, max(1, math.ceil(len(views) / BATCH))):
            batch_tokens = torch.from_numpy(tokens.values[at].astype(np.float32))
            pooled = torch.from_numpy(tokens.pooled[at])
            pieces = (torch.from_numpy(rows[None, k : k + SAMPLED]) for k in range(0, len(rows), SAMPLED))
            out.append(torch.cat([decoder(batch_tokens, pooled, piece) for piece in pieces], dim=1).numpy())
    logits: Floats = np.concatenate(out) + offset
    return logits
