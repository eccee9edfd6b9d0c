"""The stored queries of a vocabulary, and the first pass over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anytag._io import atomic_write
from anytag._typing import Doubles, Floats, Halves, Ints
from anytag.errors import ModelError
from anytag.models.card import Platt
from anytag.models.tensors import map_tensors

FIRST_PASS = "first_pass"
"""Name of the card's metrics of a first pass."""
_MAX_LOGIT = 14.0  # the logit of a probability of about 1 - 1e-6
# OpenBLAS starts threads for larger products, which costs 30 times as much as the product itself
_ONE_THREAD = 65536 * 4
_IN_CACHE = 256  # tags whose weights in float32 stay in the processor's second cache
_EXACT = (1 << 24) // 128  # float32 holds every whole number up to 2^24; int8 weights are at most 128
_NOTHING: npt.NDArray[Any] = np.zeros(0, np.float32)


@dataclass(frozen=True, eq=False)
class CoarseClassifier:
    """A linear classifier per tag on the pooled image vector, which selects the tags to decode.

    Attributes:
        weights: K×D, memory-mapped: int8, float16 or float32.
        scale: float32 K, by which the weights are multiplied.
        bias: float32 K.
    """

    weights: npt.NDArray[Any]
    scale: Floats
    bias: Floats

    @classmethod
    def of(cls, linear: npt.NDArray[Any]) -> CoarseClassifier:
        """From weights and bias in one array, float K×(D+1)."""
        return cls(linear[:, :-1], np.ones(len(linear), np.float32), linear[:, -1].astype(np.float32))

    def __len__(self) -> int:
        return len(self.weights)

    def linear(self, index: Sequence[int] | slice = slice(None)) -> Floats:
        """Weights of some tags with the bias as last column: float32 M×(D+1)."""
        weights = np.multiply(self.weights[index], self.scale[index, None], dtype=np.float32)
        return np.hstack([weights, self.bias[index, None]])

    def logits(self, pooled: Floats) -> Floats:
        """pooled float32 N×D -> N×K. A photo's logits are the same alone and in any batch.

        For int8 weights the vectors become integers too, so small that every sum is exact in float32. The
        weights are converted piece by piece: in float32 they take 8 MB.
        """
        is_int8 = self.weights.dtype == np.int8
        inputs, unit = _whole(pooled, _EXACT // pooled.shape[1]) if is_int8 else (pooled, np.float32(1))
        logits = np.empty((len(pooled), len(self)), np.float32)
        step = max(1, min(_IN_CACHE, _ONE_THREAD // pooled.size))
        for start in range(0, len(self), step):
            piece = slice(start, start + step)
            weights = self.weights[piece].astype(np.float32)
            logits[:, piece] = inputs @ weights.T if is_int8 else [weights @ one for one in inputs]
        logits *= unit
        logits *= self.scale
        logits += self.bias
        return logits

    def quantized(self) -> CoarseClassifier:
        """The same with weights in int8."""
        if self.weights.dtype == np.int8:
            return self
        weights, scale = quantized(self.linear()[:, :-1])
        return CoarseClassifier(weights, scale[:, 0], self.bias)

    def stretched(
        self, index: Ints, factor: npt.NDArray[np.float64], offset: npt.NDArray[np.float64]
    ) -> CoarseClassifier:
        """Return a copy in which the logits of some tags are multiplied and shifted."""
        scale, bias = self.scale.copy(), self.bias.copy()
        scale[index] *= factor
        bias[index] = bias[index] * factor + offset
        return CoarseClassifier(self.weights, scale, bias)


@dataclass(frozen=True, eq=False)
class Bank:
    """The trained queries of a vocabulary: K tags with up to P descriptions, rows of width R.

    Attributes:
        rows: K×P×R, memory-mapped: int8, float16 or float32.
        scale: for int8 rows, float32 K×P; a query is its row times its scale, all zero where a tag has fewer
            than P. None for float rows.
        coarse: the first pass; None if there is none and every tag is decoded.
        line: float32 K×2: slope and offset applied to each tag's log-odds after the card's calibration.
        limits: float32 K: log-odds of the thresholds, if the first pass predicts log-odds minus these; None
            if it predicts uncalibrated logits.
    """

    rows: npt.NDArray[Any]
    scale: Floats | None
    coarse: CoarseClassifier | None
    line: Floats
    limits: Floats | None = None

    @classmethod
    def read(cls, path: Path, *, tags: int, width: int) -> Bank:
        """Read a bank from a safetensors file.

        Args:
            path: the file; it stays mapped.
            tags: K.
            width: D.

        Raises:
            ModelError: the file cannot be read, or has other shapes.
        """
        found = map_tensors(path)
        rows, scale = (found.get(name, _NOTHING) for name in ("rows", "scale"))
        first_pass = _first_pass(found, tags=tags, width=width) if "coarse" in found else None
        line, limits = found.get("line", identity_lines(tags)), found.get("coarse_limits")
        is_int8 = rows.dtype == np.int8
        if rows.ndim != 3 or len(rows) != tags or not (is_int8 or rows.dtype in (np.float16, np.float32)):
            expected = f"rows {tags}×P×R, int8 or float"
        elif is_int8 and scale.shape != rows.shape[:2]:
            expected = f"scale {rows.shape[0]}×{rows.shape[1]}"
        elif "coarse" in found and first_pass is None:
            expected = f"coarse {tags}×{width + 1}"
        elif line.shape != (tags, 2):
            expected = f"line {tags}×2"
        elif limits is not None and limits.shape != (tags,):
            expected = f"coarse_limits {tags}"
        else:
            scale, line = scale.astype(np.float32), line.astype(np.float32)
            return cls(rows, scale if is_int8 else None, first_pass, line, limits)
        actual = ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in sorted(found.items()))
        raise ModelError(f"{path}: expected {expected}, got {actual}; get the model again")

    def write(self, path: Path) -> None:
        """Write a safetensors file, atomically, since the rows may be mapped from the same file.

        Raises:
            OutputError: the file cannot be written.
        """
        from safetensors.numpy import save_file

        tensors = {"rows": self.rows, "scale": self.scale, "line": self.line, "coarse_limits": self.limits}
        if self.coarse is not None and self.scale is not None:
            coarse = self.coarse.quantized()
            tensors |= {"coarse": coarse.weights, "coarse_scale": coarse.scale[:, None]}
            tensors["coarse_bias"] = coarse.bias[:, None]
        elif self.coarse is not None:
            tensors["coarse"] = self.coarse.linear().astype(np.float16)
        with atomic_write(path) as draft:
            save_file({name: np.ascontiguousarray(x) for name, x in tensors.items() if x is not None}, draft)

    def with_lines(self, tags: Ints, lines: Doubles, *, known: Platt, thresholds: Doubles) -> Bank:
        """Return the same queries with other calibration lines for some tags; the first pass is adapted.

        Args:
            tags: M indices.
            lines: M×2, slope and bias to apply to the current log-odds of the tags.
            known: the card's calibration, which is applied before each tag's line.
            thresholds: M, the tags' new thresholds.
        """
        (slope, offset), (a, b) = self.line[tags].T.astype(np.float64), lines.T
        line = self.line.copy()
        line[tags] = np.stack([a * slope, a * offset + b], axis=1)
        if self.coarse is None:
            return replace(self, line=line)
        if self.limits is None:  # add the change of the log-odds, in the card's units
            factor = 1 + (a - 1) * slope
            shift = ((a - 1) * (slope * known.bias + offset) + b) / known.scale
            return replace(self, line=line, coarse=self.coarse.stretched(tags, factor, shift))
        limits, after = self.limits.copy(), threshold_log_odds(thresholds)
        limits[tags] = after
        coarse = self.coarse.stretched(tags, a, a * self.limits[tags] + b - after)
        return replace(self, line=line, coarse=coarse, limits=limits)

    def __len__(self) -> int:
        return len(self.rows)

    def queries(self, index: Ints | slice, *, out: Floats | None = None) -> Floats:
        """Queries of some tags: float32 index.shape×P×R; int8 ones are written to `out`, if given."""
        rows = self.rows[index]
        if self.scale is not None:
            queries = np.empty(rows.shape, np.float32) if out is None else out
            np.copyto(queries, rows)  # twice as fast as multiplying int8 with float32
            queries *= self.scale[index][..., None]
            return queries
        return _widened(rows) if rows.dtype == np.float16 else np.asarray(rows, np.float32)

    def nearest(self, pooled: Floats, count: int) -> Ints:
        """Indices of the `count` tags that the first pass scores highest: int64 N×count, ascending."""
        assert self.coarse is not None
        logits = self.coarse.logits(pooled)
        return np.sort(np.argpartition(-logits, count - 1, axis=1)[:, :count], axis=1)


def _first_pass(found: Mapping[str, npt.NDArray[Any]], *, tags: int, width: int) -> CoarseClassifier | None:
    """Stored as float16 with the bias, or as int8 with a scale and a bias per tag; None for other shapes."""
    coarse = found["coarse"]
    if coarse.dtype != np.int8:
        return CoarseClassifier.of(coarse) if coarse.shape == (tags, width + 1) else None
    scale, bias = (found.get(f"coarse_{name}", _NOTHING) for name in ("scale", "bias"))
    if coarse.shape != (tags, width) or not scale.shape == bias.shape == (tags, 1):
        return None
    return CoarseClassifier(coarse, scale[:, 0].astype(np.float32), bias[:, 0].astype(np.float32))


def threshold_log_odds(thresholds: Doubles) -> Doubles:
    """Log-odds of thresholds in [0, 1], those of 0 and 1 limited to ±14."""
    with np.errstate(divide="ignore"):
        limits: Doubles = (np.log(thresholds) - np.log1p(-thresholds)).clip(-_MAX_LOGIT, _MAX_LOGIT)
    return limits


def identity_lines(tags: int) -> Floats:
    """Lines that leave log-odds unchanged: float32 K×2."""
    return np.tile(np.array([1, 0], np.float32), (tags, 1))


def quantized(values: Floats, *, axis: int = -1) -> tuple[npt.NDArray[np.int8], Floats]:
    """Quantise floats of any shape to int8, with float32 scales shared along an axis, which is kept."""
    whole, scale = _whole(values, 127, axis=axis)
    return whole.astype(np.int8), scale


def _whole(values: Floats, most: int, *, axis: int = -1) -> tuple[Floats, Floats]:
    """Floats of any shape as whole numbers from -most to most, and their scales, shared along an axis."""
    largest = np.maximum(np.abs(values).max(axis, keepdims=True), 1e-12).astype(np.float32)
    scale = largest / np.float32(most)
    return np.round(values / scale), scale


def _widened(halves: Halves) -> Floats:
    """Convert finite float16 of any shape to float32 by bit operations, three times faster than numpy."""
    bits = np.ascontiguousarray(halves).view(np.int16).astype(np.int32)
    bits <<= 13  # to the position of float32's exponent and fraction; the sign was extended to its position
    bits &= np.int32(-0x70002000)  # 0x8FFFE000: clears the other copies of the sign
    wide = bits.view(np.float32)
    wide *= np.float32(2.0**112)  # corrects the exponent's bias
    return wide
