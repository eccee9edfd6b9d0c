"""The tags of a model folder: read them for fine-tuning, and make a query bank of the result."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from anytag._typing import Floats
from anytag.errors import ModelError, VocabularyError
from anytag.models.card import Platt
from anytag.models.folder import ModelFolder
from anytag.queries.bank import Bank, CoarseClassifier, quantized
from anytag.text_encoders import StaticTextEncoder
from anytag.torch.nn.folded_decoder import FoldedDecoder
from anytag.vocabulary import Tag, Vocabulary

Array = npt.NDArray[Any]


_RECIPES = {"tag2text": "tag2text-14m-384", "ram": "ram-14m-384", "ram-plus": "ram-plus-14m-384"}


@dataclass(frozen=True, eq=False)
class StoredTags:
    """The tags of a model folder: vocabulary, queries and text encoder."""

    vocabulary: Vocabulary
    bank: Bank
    words: StaticTextEncoder

    @classmethod
    def read(cls, folder: ModelFolder) -> StoredTags:
        """Read the tags of a folder of the family mini.

        Raises:
            ModelError: the folder is of another family, or a file cannot be read.
        """
        if folder.card.family != "mini" or folder.card.text is None:
            raise ModelError(
                f"{folder.path} is of the family {folder.card.family!r}; anytag finetune supports only the "
                f"family 'mini'. Type: anytag train {_RECIPES.get(folder.card.family, 'RECIPE')} "
                f"start={folder.path} --data FILE --output FOLDER"
            )
        vocabulary = Vocabulary.read(folder.file("vocabulary.jsonl"))
        file = folder.file("queries.safetensors")
        bank = Bank.read(file, tags=len(vocabulary), width=folder.card.width)
        return cls(vocabulary, bank, StaticTextEncoder.from_folder(folder.text))

    def rows(self, tags: Vocabulary) -> Floats:
        """Initial query rows of tags: trained rows for known ids, otherwise the projected name.

        A name that the encoder does not know, such as one in another script, starts as the mean of all tags.

        Returns:
            float32 K×P×D; a tag with fewer than P rows is padded with zeros.
        """
        rows = np.zeros((len(tags), *self.bank.rows.shape[1:]), np.float32)
        for row, tag in zip(rows, tags, strict=True):
            if tag.id in self.vocabulary:
                row[:] = self.bank.queries(np.asarray(self.vocabulary.index(tag.id)))
            else:
                name = self._name(tag.name)
                row[0] = self._mean if name is None else name
        used = max(1, int((rows != 0).any(-1).sum(1).max()))
        return rows[:, :used]

    def knows(self, name: str) -> bool:
        """Whether a tag of this name can be scored without training."""
        return self.vocabulary.find(name) is not None or self._name(name) is not None

    def _name(self, name: str) -> Floats | None:
        try:
            query: Floats = self.words.project(self.words.encode([name]))[0]
        except VocabularyError:
            return None
        return query

    @cached_property
    def _mean(self) -> Floats:
        """Mean of the first rows of some tags: D."""
        some = self.bank.queries(np.arange(min(256, len(self.vocabulary))))
        mean: Floats = some[:, 0].mean(0)
        return mean

    def joined(self, new: Bank, vocabulary: Vocabulary) -> tuple[Bank, Vocabulary]:
        """Merge new tags into the old ones: known tags are replaced in place, others are appended."""
        tags: list[Tag] = list(self.vocabulary)
        positions = []
        for tag in vocabulary:
            known = tag.id in self.vocabulary
            positions.append(self.vocabulary.index(tag.id) if known else len(tags))
            if known:
                tags[positions[-1]] = replace(self.vocabulary[tag.id], threshold=tag.threshold)
            else:
                tags.append(tag)
        parts = {
            name: _put(getattr(self.bank, name), getattr(new, name), positions, count=len(tags))
            for name in ("rows", "scale", "line")
        }
        assert self.bank.coarse is not None and new.coarse is not None  # of a folded decoder
        linear = _put(self.bank.coarse.linear(), new.coarse.linear(), positions, count=len(tags))
        return Bank(**parts, coarse=CoarseClassifier.of(linear)), Vocabulary(tags)


def _put(old: Array, new: Array, positions: list[int], *, count: int) -> Array:
    """`old` extended to `count` rows, with `new` at its positions; the second axis is padded with zeros."""
    width = max(old.shape[1], new.shape[1])
    out = np.zeros((count, width, *old.shape[2:]), old.dtype)
    out[: len(old), : old.shape[1]] = old
    out[positions] = 0
    out[positions, : new.shape[1]] = new
    return out


def make_bank(decoder: FoldedDecoder, rows: Floats, lines: Floats, *, known: Platt) -> Bank:
    """Make a bank of rows float32 K×P×D; the first pass is computed from the quantised rows.

    Args:
        lines: K×2, slope and bias of each tag's logit.
        known: the card's calibration, which is applied before that of each tag. The first pass compares
            uncalibrated logits, so its rows include the part of `lines` that `known` does not have.
    """
    stored, scales = quantized(rows)
    back = torch.from_numpy(stored * scales)
    with torch.no_grad():
        mean = back.sum(1) / (back != 0).any(-1).sum(1, keepdim=True).clamp_min(1)
        coarse = torch.cat([mean, decoder.bias(mean)], dim=1).numpy() * (lines[:, :1] / known.scale)
    coarse[:, -1] += (lines[:, 1] - known.bias) / known.scale
    slope = lines[:, 0] / known.scale
    line = np.stack([slope, lines[:, 1] - slope * known.bias], axis=1)
    return Bank(
        stored, scales[..., 0], CoarseClassifier.of(coarse.astype(np.float32)), line.astype(np.float32)
    )


def keep_descriptions(file: Path, vocabulary: Vocabulary) -> None:
    """Remove the lines of other tags than the vocabulary's from descriptions.jsonl, if it exists."""
    if not file.is_file():
        return
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    lines_kept = [line for line in lines if line.strip() and json.loads(line)["id"] in vocabulary]
    file.write_text("".join(lines_kept), encoding="utf-8")
