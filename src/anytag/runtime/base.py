"""The interface of all runtimes, with argument checks."""

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

    def decoder(self, tag_ids: Ints, tag_mask: Ints, tokens: Floats) -> Decoder[Any]:
        """Return a decoder for captions of N photos.

        Args:
            tag_ids, tag_mask: int64 N×S, from `WordPieces.tag_text`.
            tokens: float32 N×T×D, from `Runtime.encode`.

        Raises:
            ModelError: the head does not accept these shapes.
        """
        ...

    def supports_length(self, length: int) -> bool:
        """Whether there are positions for captions of `length` wordpieces, including the prompt."""
        ...


class Matcher(Protocol):
    """Alignment heads.

    Attributes:
        space: E, the dimension of the joint embedding space of photos and texts.
    """

    @property
    def space(self) -> int: ...

    def encode_images(
        self, tokens: Floats, pooled: Floats, tag_ids: Ints, tag_mask: Ints
    ) -> tuple[Floats, Floats]:
        """Encode N photos: memory of the cross-encoder, float32 N×(T+S)×D, and unit vectors N×E.

        Args:
            tokens, pooled: float32 N×T×D and N×D, from `Runtime.encode`.
            tag_ids, tag_mask: int64 N×S, from `WordPieces.tag_text`.
        """
        ...

    def encode_texts(self, ids: Ints) -> Floats:
        """Unit vectors float32 M×E of texts, int64 M×L, from `WordPieces.caption_text`."""
        ...

    def score_pairs(self, memory: Floats, ids: Ints, pairs: Ints) -> Floats:
        """Logits float32 P that a text matches a photo.

        Args:
            memory: float32 N×(T+S)×D from `encode_images`.
            ids: int64 M×L, texts as for `encode_texts`.
            pairs: int64 P×2, indices of photo and text.
        """
        ...


class Runtime(ABC):
    """Runs one model. All methods are thread-safe.

    Attributes:
        caches_queries: `score` accepts a whole table of queries as stored, also float16, and caches it.
    """

    caches_queries = False

    @property
    @abstractmethod
    def provider(self) -> str:
        """Name of the execution provider, for `anytag doctor`."""

    @property
    @abstractmethod
    def device(self) -> str:
        """The device, such as "cpu" or "cuda:0"."""

    @property
    @abstractmethod
    def is_approximate(self) -> bool:
        """Whether logits differ from those with `exact`."""

    def encode(self, pixels: Bytes) -> tuple[Floats, Floats]:
        """Encode preprocessed photos.

        Args:
            pixels: uint8 N×3×S×S, RGB, with S from the card and N at least 1.

        Returns:
            tokens float32 N×T×D and pooled float32 N×D.

        Raises:
            ModelError: another shape or dtype, or the model cannot be run.
        """
        size = self._size
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (3, size, size) or not len(pixels):
            raise _wrong("pixels", pixels, f"uint8 N×3×{size}×{size} with N at least 1")
        return self._encode(pixels)

    def score(self, tokens: Floats, pooled: Floats, queries: Rows, *, exact: bool = False) -> Floats:
        """Compute the logits of every tag for every photo.

        Args:
            tokens: float32 N×T×D from `encode`.
            pooled: float32 N×D from `encode`.
            queries: float32 Q×K×P×R; Q is 1 (shared by all photos) or N (one set per photo). K tags with up
                to P descriptions; all-zero rows are padding and get no weight. R is D except for learned
                queries.
            exact: compute in float32, even if the runtime `is_approximate`.

        Returns:
            float32 N×K.

        Raises:
            ModelError: another shape or dtype, or the model cannot be run.
        """
        self._check(tokens, pooled, queries)
        if not queries.shape[1]:
            return np.zeros((len(tokens), 0), np.float32)
        return self._score(tokens, pooled, queries, exact=exact)

    def locate(self, tokens: Floats, pooled: Floats, queries: Rows) -> Floats:
        """Compute the evidence at each token for each tag in each photo: see `anytag.localization`.

        Args:
            tokens, pooled, queries: as for `score`.

        Returns:
            float32 N×K×T.

        Raises:
            ModelError: as for `score`, or the model was exported without this output.
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
            MissingExtraError: it needs torch, which is not installed.
        """

    @abstractmethod
    def matcher(self) -> Matcher:
        """The alignment heads; errors as for `captions`."""

    @property
    @abstractmethod
    def _size(self) -> int:
        """S, the image size."""

    @property
    @abstractmethod
    def _width(self) -> int:
        """D, the width of tokens and pooled vectors."""

    @property
    @abstractmethod
    def _row_width(self) -> int:
        """R, the width of query rows: D for rows made from words, larger for learned ones."""

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
        is_float = queries.dtype == np.float32 or (self.caches_queries and queries.dtype == np.float16)
        sets, _, rows, row_width = queries.shape if queries.ndim == 4 else (0, 0, 0, 0)
        if not is_float or sets not in (1, count) or not rows or row_width != self._row_width:
            expected = f"float32 Q×K×P×{self._row_width} with Q 1 or {count} and P at least 1"
            raise _wrong("queries", queries, expected)


def check_device(device: str) -> None:
    """Raise DeviceError for a value that is not a `Device`."""
    if device not in get_args(Device):
        raise DeviceError(f"device {device!r}: expected 'auto', 'cpu' or 'cuda'")


def _wrong(name: str, given: Array, expected: str) -> ModelError:
    shape = "×".join(map(str, given.shape)) or "scalar"
    return ModelError(f"{name}: expected {expected}, got {given.dtype} {shape}")
