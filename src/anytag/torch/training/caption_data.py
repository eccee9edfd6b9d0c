"""What the caption head is trained on: photos, encoded once, and their captions with the tags they name."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from anytag.batching import usable_cores
from anytag.data.rows import Row, read_rows
from anytag.errors import AnytagError
from anytag.images import load
from anytag.models.folder import ModelFolder
from anytag.parsing import Parser
from anytag.runtime.onnx import IMAGE, OnnxRuntime
from anytag.text_encoders.captions import clean_caption
from anytag.text_encoders.wordpiece import WordPieces
from anytag.torch.training.feature_cache import view
from anytag.torch.training.report import Progress, Reporter
from anytag.vocabulary import Vocabulary

Indexes = npt.NDArray[np.int64]

SHARD = 256
BUCKET = 40  # batches among which captions of one length are looked for


@dataclass(frozen=True)
class PhotoTokens:
    """Image tokens of photos, in shards below one folder.

    Attributes:
        photos: rows, in the order of the shards.
        place: int64 N×2, for each photo the number of its first view and how many views it has.
        values: float16, the shards one after the other, on disk.
    """

    photos: tuple[Row, ...]
    place: Indexes
    values: tuple[npt.NDArray[np.float16], ...]

    def __call__(self, views: Indexes) -> Tensor:
        """float32 N×T×D of the views with these numbers."""
        return torch.from_numpy(
            np.stack([self.values[v // SHARD][v % SHARD] for v in views]).astype(np.float32)
        )


def view_counts(photos: Sequence[Row]) -> Indexes:
    """How many views of each photo are kept: those of many captions are shown mirrored too."""
    return np.array([1 + (row.split == "train" and len(row.captions) > 1) for row in photos])


def encode_tokens(rows: Path, folder: ModelFolder, out: Path, *, report: Reporter) -> PhotoTokens:
    """The tokens of all photos with captions, by the model's own image graph; goes on where it stopped.

    Raises:
        AnytagError: `out` holds the tokens of other rows or of another model.
    """
    photos = tuple(row for row in read_rows(rows) if row.captions)
    counts = view_counts(photos)
    said = {"rows": sha256(rows.read_bytes()).hexdigest(), "image": folder.card.files[IMAGE].sha256}
    out.mkdir(parents=True, exist_ok=True)
    claim = out / "tokens.json"
    if claim.exists() and json.loads(claim.read_text()) != said:
        raise AnytagError(f"{out} holds the tokens of other rows or of another model; name an empty folder")
    claim.write_text(json.dumps(said))
    views = [(row, number) for row, count in zip(photos, counts, strict=True) for number in range(count)]
    files = [out / f"tokens-{start // SHARD:04d}.npy" for start in range(0, len(views), SHARD)]
    runtime, size = OnnxRuntime(folder, device="cpu"), folder.card.image.size

    def encode(number: int) -> None:
        if files[number].exists():
            return
        some, parts = views[number * SHARD : (number + 1) * SHARD], []
        for row, which in some:
            photo = load(rows.parent / row.image, near=size)
            parts.append(runtime.encode(view(photo, which, size=size, draw=random.Random(0))[None])[0])
        partial = files[number].with_suffix(".partial.npy")
        np.save(partial, np.concatenate(parts).astype(np.float16))
        partial.rename(files[number])

    with ThreadPoolExecutor(usable_cores()) as pool:
        for done, _ in enumerate(pool.map(encode, range(len(files))), 1):
            report.progress(Progress("read photos", min(done * SHARD, len(views)), len(views), unit="views"))
    place = np.stack([counts.cumsum() - counts, counts], axis=1)
    return PhotoTokens(photos, place, tuple(np.load(file, mmap_mode="r") for file in files))


@dataclass
class CaptionBatch:
    """One step's captions.

    Attributes:
        tokens: float32 N×T×D of the photos.
        guide: int64 N×S, wordpieces of the tags' text.
        text: int64 N×L, "[DEC] a dog runs [SEP]", filled up with 0.
    """

    tokens: Tensor
    guide: Tensor
    text: Tensor


class CaptionCorpus:
    """Captions of the training photos, with the tags that each names.

    Args:
        tokens: of the photos.
        vocabulary: whose tags guide.
        pieces: how text is cut.
        tag_length: S.
        unguided: part of the captions that are learned without a tag.
        kept: part of a caption's tags that it is told, where it is told any: so a caption may say more than
            it is asked for, but what is asked for is always said.
    """

    def __init__(
        self,
        tokens: PhotoTokens,
        vocabulary: Vocabulary,
        pieces: WordPieces,
        *,
        tag_length: int,
        unguided: float,
        kept: float,
    ) -> None:
        self.tokens, self.pieces = tokens, pieces
        self.tag_length, self.unguided, self.kept = tag_length, unguided, kept
        parser = Parser(vocabulary=vocabulary)
        told = [
            (number, caption)
            for number, row in enumerate(tokens.photos)
            for caption in row.captions
            if row.split == "train"
        ]
        self.views = np.arange(len(told))  # a caption is what a step shows
        self.photo = np.array([number for number, _ in told])
        self.texts = [pieces.caption_text([clean_caption(caption)])[0] for _, caption in told]
        self.tags = [tag_texts(parser, caption) for _, caption in told]
        self.length = np.array([len(text) for text in self.texts])

    def steps_per_epoch(self, batch_size: int) -> int:
        return len(self.views) // batch_size

    def batches(self, epoch: int, *, batch_size: int, seed: int, start: int = 0) -> Iterator[CaptionBatch]:
        """Batches of one epoch; the order depends on seed and epoch only, so a run can resume anywhere."""
        order = self._order(np.random.default_rng([seed, epoch]), batch_size)
        for step in range(start, self.steps_per_epoch(batch_size)):
            draw = np.random.default_rng([seed, epoch, step])
            yield self.batch(order[step], draw=draw)

    def batch(self, captions: Indexes, *, draw: np.random.Generator) -> CaptionBatch:
        place, count = self.tokens.place[self.photo[captions]].T
        views = place + draw.integers(0, count)
        text = np.zeros((len(captions), self.length[captions].max()), np.int64)
        for row, number in zip(text, captions, strict=True):
            row[: self.length[number]] = self.texts[number]
        guide, _ = self.pieces.tag_text(
            [self._guide(self.tags[number], draw) for number in captions], length=self.tag_length
        )
        return CaptionBatch(self.tokens(views), torch.from_numpy(guide), torch.from_numpy(text))

    def _guide(self, tags: Sequence[tuple[str, str]], draw: np.random.Generator) -> list[str]:
        """Some of a caption's tags in any order, by their names or in the caption's words."""
        if draw.random() < self.unguided:
            return []
        some = [number for number in draw.permutation(len(tags)) if draw.random() < self.kept]
        return [tags[number][draw.integers(2)] for number in some]

    def _order(self, draw: np.random.Generator, batch_size: int) -> Indexes:
        """Captions of all batches, steps×batch_size, those of a batch of about one length."""
        steps = self.steps_per_epoch(batch_size)
        order = draw.permutation(self.views)[: steps * batch_size]
        for start in range(0, len(order), BUCKET * batch_size):
            some = order[start : start + BUCKET * batch_size]
            order[start : start + len(some)] = some[np.argsort(self.length[some], kind="stable")]
        return draw.permutation(order.reshape(steps, batch_size))


def tag_texts(parser: Parser, caption: str) -> list[tuple[str, str]]:
    """The tags that a caption names, each by its name and in the caption's words."""
    return [(tag.name, caption[tag.start : tag.end].lower()) for tag in parser.parse(caption)]
