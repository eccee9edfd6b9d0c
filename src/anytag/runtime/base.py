"""What a runtime of a model does, whatever runs it, and the arguments that every one of them takes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np

from anytag._typing import Array, Bytes, Floats, Ints, Rows
from anytag.errors import DeviceError, ModelError

if TYPE_CHECKING:
    from anytag.generation import Decoder

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["float32", "bfloat16", "int8"]


class Captions(Protocol):
    """A caption head."""

    def about(self, tag_ids: Ints, tag_mask: Ints, tokens: Floats) -> Decoder[Any]:
        """What writes about N photos.

        Args:
            tag_ids, tag_mask: int64 N×S, from `WordPieces.tag_text`.
            tokens: float32 N×T×D, from `Runtime.encode`.

        Raises:
            ModelError: the head does not take these shapes.
        """
        ...

    def takes(self, length: int) -> bool:
        """Does it have positions for captions of so many wordpieces, the prompt's included?"""
        ...


class Matcher(Protocol):
    """Alignment heads.

    Attributes:
        space: E, of the space that photos and texts share.
    """

    @property
    def space(self) -> int: ...

    def encode_images(
        self, tokens: Floats, pooled: Floats, tag_ids: Ints, tag_mask: Ints
    ) -> tuple[Floats, Floats]:
        """What is kept of N photos: what texts look at, float32 N×(T+S)×D, and unit vectors N×E.

        Args:
            tokens, pooled: float32 N×T×D and N×D, from `Runtime.encode`.
            tag_ids, tag_mask: int64 N×S, from `WordPieces.tag_text`.
        """
        ...

    def encode_texts(self, ids: Ints) -> Floats:
        """Unit vectors float32 M×E of texts, int64 M×L, from `WordPieces.caption_text`."""
        ...

    def score_pairs(self, seen: Floats, ids: Ints, pairs: Ints) -> Floats:
        """Logits float32 P that a text fits a photo.

        Args:
            seen: float32 N×(T+S)×D from `encode_images`.
            ids: int64 M×L, texts as for `encode_texts`.
            pairs: int64 P×2, numbers of photo and text.
        """
        ...


class Runtime(ABC):
    """Runs one model. All methods may be called from several threads at once.

    Attributes:
        keeps_rows: `score` takes a whole table of queries as it is stored, float16 too, and keeps it.
    """

    keeps_rows = False

    @property
    @abstractmethod
    def provider(self) -> str:
        """What runs the model, for `anytag doctor`."""

    @property
    @abstractmethod
    def device(self) -> str:
        """Where it runs, such as "cpu" or "cuda:0"."""

    @property
    @abstractmethod
    def is_approximate(self) -> bool:
        """Do logits differ from those that `exact` gives?"""

    def encode(self, pixels: Bytes) -> tuple[Floats, Floats]:
        """Image tokens of prepared photos.

        Args:
            pixels: uint8 N×3×S×S, RGB, S as the card says, N of at least 1.

        Returns:
            tokens float32 N×T×D and pooled float32 N×D.

        Raises:
            ModelError: another shape or type, or the model cannot be run.
        """
        size = self._size
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (3, size, size) or not len(pixels):
            raise _wrong("pixels", pixels, f"uint8 N×3×{size}×{size} with N of at least 1")
        return self._encode(pixels)

    def score(self, tokens: Floats, pooled: Floats, queries: Rows, *, exact: bool = False) -> Floats:
        """Logits of every tag in every photo.

        Args:
            tokens: float32 N×T×D from `encode`.
            pooled: float32 N×D from `encode`.
            queries: float32 Q×K×P×R; Q is 1 (the same for all photos) or N (each photo its own). K tags of up
                to P descriptions; an all-zero row is padding and gets no weight. R is D but for learned rows.
            exact: in float32, also where the runtime `is_approximate`.

        Returns:
            float32 N×K.

        Raises:
            ModelError: another shape or type, or the model cannot be run.
        """
        self._check(tokens, pooled, queries)
        if not queries.shape[1]:
            return np.zeros((len(tokens), 0), np.float32)
        return self._score(tokens, pooled, queries, exact=exact)

    def locate(self, tokens: Floats, pooled: Floats, queries: Rows) -> Floats:
        """What each token says for each tag in each photo: see `anytag.localization`.

        Args:
            tokens, pooled, queries: as for `score`.

        Returns:
            float32 N×K×T.

        Raises:
            ModelError: as for `score`, or the model was exported without it.
        """
        self._check(tokens, pooled, queries)
        if not queries.shape[1]:
            return np.zeros((len(tokens), 0, tokens.shape[1]), np.float32)
        return self._locate(tokens, pooled, queries)

    @abstractmethod
    def captions(self) -> Captions:
        """The caption head.

        Raises:
            ModelError: the model has none.
            MissingExtraError: it is run by torch, which is not installed.
        """

    @abstractmethod
    def matcher(self) -> Matcher:
        """The alignment heads; errors as for `captions`."""

    @property
    @abstractmethod
    def _size(self) -> int:
        """S, of a photo's side."""

    @property
    @abstractmethod
    def _width(self) -> int:
        """D, of tokens and pooled vectors."""

    @property
    @abstractmethod
    def _row_width(self) -> int:
        """R, of a row of the queries: D for rows made of words, more for learned ones."""

    @abstractmethod
    def _encode(self, pixels: Bytes) -> tuple[Floats, Floats]: ...

    @abstractmethod
    def _score(self, tokens: Floats, pooled: Floats, queries: Rows, *, exact: bool) -> Floats: ...

    @abstractmethod
    def _locate(self, tokens: Floats, pooled: Floats, queries: Rows) -> Floats: ...

    def _check(self, tokens: Floats, pooled: Floats, queries: Rows) -> None:
        width, count = self._width, len(tokens)
        if tokens.dtype != np.float32 or tokens.ndim != 3 or tokens.shape[2] != width or not tokens.size:
            raise _wrong("tokens", tokens, f"float32 N×T×{width}, not empty")
        if pooled.dtype != np.float32 or pooled.shape != (count, width):
            raise _wrong("pooled", pooled, f"float32 {count}×{width}")
        known = queries.dtype == np.float32 or (self.keeps_rows and queries.dtype == np.float16)
        sets, _, rows, row_width = queries.shape if queries.ndim == 4 else (0, 0, 0, 0)
        if not known or sets not in (1, count) or not rows or row_width != self._row_width:
            expected = f"float32 Q×K×P×{self._row_width} with Q of 1 or {count} and P of at least 1"
            raise _wrong("queries", queries, expected)


def check_device(device: str) -> None:
    """Raises DeviceError for what is no `Device`."""
    if device not in get_args(Device):
        raise DeviceError(f"device {device!r}: expected 'auto', 'cpu' or 'cuda'")


def _wrong(name: str, given: Array, expected: str) -> ModelError:
    shape = "×".join(map(str, given.shape)) or "scalar"
    return ModelError(f"{name}: expected {expected}, got {given.dtype} {shape}")
