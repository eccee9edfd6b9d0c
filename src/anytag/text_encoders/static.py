"""The static text encoder: a text's vector is the mean of its tokens' table rows; numpy and tokenizers only.

Static tables distilled from a sentence transformer are due to Model2Vec (Tulkens & van Dongen, 2024);
frequent tokens have smaller weights (SIF, Arora et al., 2017, section 3), which are included in the length of
each row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anytag._io import atomic_write
from anytag._typing import Floats
from anytag.errors import FileMismatchError, ModelError, VocabularyError, brief
from anytag.text_encoders.queries import check_texts

if TYPE_CHECKING:
    from tokenizers import Tokenizer


PROJECTION = "projection.safetensors"
MAX_TOKENS = 512
_BATCH = 1024  # texts per batch: 1024 × 30 tokens × 256 floats are about 30 MB


@dataclass(frozen=True)
class StaticTextEncoder:
    """A folder with ``tokenizer.json``, ``table.safetensors`` and, if trained, ``projection.safetensors``.

    Files are read when first needed, since most photos are tagged without custom tags.
    """

    folder: Path

    @classmethod
    def from_folder(cls, path: str | Path) -> StaticTextEncoder:
        """Open the encoder of a folder; only checks that its files exist.

        Raises:
            FileMismatchError: a file is missing.
        """
        folder = Path(path)
        for name in ("tokenizer.json", "table.safetensors"):
            if not (folder / name).is_file():
                raise FileMismatchError(
                    f"text encoder {folder}: {name} is missing; a static text encoder needs "
                    "tokenizer.json and table.safetensors. Install the model again"
                )
        return cls(folder)

    @property
    def dim(self) -> int:
        """Dimension of a text vector."""
        return int(self._table[0].shape[1])

    @property
    def has_projection(self) -> bool:
        """Whether the folder has a query projection."""
        return (self.folder / PROJECTION).is_file()

    def encode(self, texts: Sequence[str]) -> Floats:
        """Embed texts: float32 n×dim, unit vectors; texts are truncated to 512 tokens.

        Raises:
            VocabularyError: a text is empty, or none of its tokens is in the table.
            ModelError: the folder's files cannot be read.
        """
        check_texts(texts)
        rows = np.empty((len(texts), self.dim), np.float32)
        for start in range(0, len(texts), _BATCH):
            batch = texts[start : start + _BATCH]
            rows[start : start + len(batch)] = self._means(self._tokens(batch))
        return rows

    def project(self, vectors: Floats) -> Floats:
        """Project text vectors to queries: ``x @ skip + relu(x @ w1 + b1) @ w2 + b2``.

        Args:
            vectors: float32 n×dim, as from `encode`.

        Returns:
            float32 n×D, D being the model's query width; rows are not normalised.

        Raises:
            ModelError: the folder has no projection, or one for vectors of another dimension.
        """
        p = self.projection
        if vectors.ndim != 2 or vectors.shape[1] != p["w1"].shape[0]:
            raise ModelError(f"got text vectors of shape {vectors.shape}, expected (n, {p['w1'].shape[0]})")
        hidden = np.maximum(vectors @ p["w1"] + p["b1"], 0.0)  # n×H
        queries: Floats = (vectors @ p["skip"] + hidden @ p["w2"] + p["b2"]).astype(np.float32, copy=False)
        return queries

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """Words of a text, each once, that are not in the table and do not start with a substantial entry.

        The table covers most of "skateboarders", single letters of "Katzenklo", and nothing of "猫".
        """
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        firsts: dict[tuple[int, int], tuple[int, int]] = {}
        for word, (start, end), token in zip(encoding.word_ids, encoding.offsets, encoding.ids, strict=True):
            whole = (word is not None and encoding.word_to_chars(word)) or (start, end)
            firsts.setdefault(whole, (start, start if token in self._special else end))
        found = (text[slice(*whole)] for whole, first in firsts.items() if _is_fragment(whole, first))
        return tuple(dict.fromkeys(word for word in found if any(map(str.isalpha, word))))

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, at least one."""
        special = self._special
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        ids = [[token for token in encoding.ids if token not in special] for encoding in encodings]
        for text, known in zip(texts, ids, strict=True):
            if not known:
                raise VocabularyError(
                    f"no word or letter of the text {brief(text)} is in this model's table; "
                    "write it in English, or use a name of the vocabulary in another language"
                )
        return ids

    def _means(self, ids: Sequence[Sequence[int]]) -> Floats:
        """Means of table rows, normalised: n×dim."""
        table, scale = self._table
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        flat = np.fromiter(chain.from_iterable(ids), np.int64, int(lengths.sum()))  # T, all texts
        vectors = table[flat] * scale[flat, None]  # T×dim
        # the sum has the direction of the mean, and the length is normalised
        sums = np.add.reduceat(vectors, np.cumsum(lengths) - lengths, axis=0)  # n×dim
        unit: Floats = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
        return unit

    @cached_property
    def _table(self) -> tuple[NDArray[np.int8], Floats]:
        """Rows int8 V×dim and their scales float32 V."""
        found = _read(self.folder / "table.safetensors", {"table": (np.int8, 2), "scale": (np.float32, 1)})
        table, scale = found["table"], found["scale"]
        if len(table) != len(scale):
            raise ModelError(
                f"{self.folder / 'table.safetensors'}: {len(table)} rows but "
                f"{len(scale)} scales, expected equal numbers"
            )
        return table, scale

    @cached_property
    def projection(self) -> dict[str, Floats]:
        """Weights of `project`: skip dim×D, w1 dim×H, b1 H, w2 H×D, b2 D, float32.

        Raises:
            ModelError: the folder has none, or its shapes are inconsistent.
        """
        path = self.folder / PROJECTION
        if not path.is_file():
            raise ModelError(f"{self.folder} has no {PROJECTION}, so texts cannot be projected to queries")
        axes = {"skip": 2, "w1": 2, "b1": 1, "w2": 2, "b2": 1}
        found = _read(path, {name: (np.floating, count) for name, count in axes.items()})
        p = {name: value.astype(np.float32) for name, value in found.items()}
        (x, hidden), (h, d) = p["w1"].shape, p["w2"].shape
        if (p["b1"].shape, h, p["b2"].shape, p["skip"].shape) != ((hidden,), hidden, (d,), (x, d)):
            shapes = {name: value.shape for name, value in p.items()}
            raise ModelError(f"{path}: the shapes are inconsistent: {shapes}")
        return p

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        from tokenizers import Tokenizer  # takes about 20 ms, so only when needed

        path = self.folder / "tokenizer.json"
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise ModelError(f"{path} is not a tokenizer ({error}); install the model again") from error
        if tokenizer.get_vocab_size() != len(self._table[0]):
            raise ModelError(
                f"{path} has {tokenizer.get_vocab_size()} tokens, "
                f"but table.safetensors has {len(self._table[0])} rows"
            )
        tokenizer.no_padding()
        tokenizer.enable_truncation(MAX_TOKENS)
        return tokenizer

    @cached_property
    def _special(self) -> frozenset[int]:
        """Ids of special tokens: unknown, padding, begin and end."""
        added = self._tokenizer.get_added_tokens_decoder()
        return frozenset(token for token, entry in added.items() if entry.special)


def _is_fragment(word: tuple[int, int], first: tuple[int, int]) -> bool:
    """Whether the first token covers too little of a word: less than half, or fewer than three letters."""
    letters, known = word[1] - word[0], first[1] - first[0]
    return known < letters and (2 * known < letters or known < 3)


def _read(path: Path, expected: dict[str, tuple[type, int]]) -> dict[str, NDArray[Any]]:
    """Read named tensors of a safetensors file and check the dtype and number of axes of each."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{path} cannot be read as safetensors ({error}); install the model again"
        ) from error
    for name, (dtype, axes) in expected.items():
        value = found.get(name)
        if value is None or not np.issubdtype(value.dtype, dtype) or value.ndim != axes:
            actual = "nothing" if value is None else f"{value.dtype} with {value.ndim} axes"
            raise ModelError(f"{path}: got {actual} as {name!r}, expected {dtype.__name__} with {axes} axes")
    return {name: found[name] for name in expected}


def write_projection(arrays: Mapping[str, Floats], folder: Path) -> None:
    """Write a text encoder's query projection, as in `StaticTextEncoder.projection`, in float16."""
    from safetensors.numpy import save_file

    with atomic_write(folder / PROJECTION) as draft:
        save_file({name: np.ascontiguousarray(x, np.float16) for name, x in arrays.items()}, draft)
