"""Change the image size of a network: resample position tables as the published loaders do."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anytag._typing import Doubles
from anytag.errors import CheckpointError
from anytag.torch.nn.configs import NetworkConfig, SwinConfig, VitConfig

_PRECISION = 1e-6


def resample_relative_positions(table: Tensor, window: int) -> Tensor:
    """Resample Swin's relative position table for another window: a bicubic spline on geometric coordinates.

    Args:
        table: (2v-1)²×heads, for window size v.
        window: the new window size, w.

    Returns:
        (2w-1)²×heads; the table itself if the window size is the same.
    """
    side, target_side = math.isqrt(len(table)), 2 * window - 1
    if side == target_side:
        return table
    from scipy.interpolate import RectBivariateSpline  # late import: 30 MB that running a model does not need

    known = _coordinates(side, target_side)
    target = np.arange(-(target_side // 2), target_side // 2 + 1).clip(known[0], known[-1])
    planes = [
        RectBivariateSpline(known, known, plane)(target, target)
        for plane in table.detach().double().T.reshape(-1, side, side).numpy()
    ]
    return torch.from_numpy(np.stack(planes)).to(table.dtype).reshape(len(planes), -1).T.contiguous()


def _coordinates(side: int, target_side: int) -> Doubles:
    """Coordinates of the table's entries in units of the new one: 0 and ±(1, 1 + q, 1 + q + q², ...)."""
    steps = _ratio(side // 2, target_side // 2) ** np.arange(side // 2)
    half = steps.cumsum()
    return np.concatenate([-half[::-1], [0.0], half])


def _ratio(steps: int, reach: int) -> float:
    """q such that `steps` terms of 1 + q + q² + ... add up to `reach`, by bisection."""
    low, high, q = 1.01, 1.5, 0.0
    while high - low > _PRECISION:
        q = (low + high) / 2
        if (1 - q**steps) / (1 - q) > reach:
            high = q
        else:
            low = q
    return q


def resample_positions(table: Tensor, count: int) -> Tensor:
    """Resample ViT's position embeddings for another grid, bicubically; that of the class token is kept.

    Args:
        table: 1×(1+g²)×C.
        count: G, the side of the new grid.

    Returns:
        1×(1+G²)×C; the table itself if the grid is the same.
    """
    side = math.isqrt(table.shape[1] - 1)
    if side == count:
        return table
    grid = table[:, 1:].transpose(1, 2).reshape(1, -1, side, side)  # 1×C×g×g
    resampled = F.interpolate(grid, size=(count, count), mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], resampled.flatten(2).transpose(1, 2)], 1)


def resized(config: NetworkConfig, size: int | None) -> NetworkConfig:
    """The configuration for another image size; Swin's window scales with it, as in the published models."""
    if size is None or size == config.size:
        return config
    backbone = config.backbone
    if isinstance(backbone, SwinConfig):
        coarsest = 4 * 2 ** (len(backbone.depths) - 1)
        _check_size(size, coarsest)
        backbone = replace(backbone, window=size // coarsest)
    elif isinstance(backbone, VitConfig):
        _check_size(size, backbone.patch)
    return replace(config, backbone=backbone, size=size)


def _check_size(size: int, step: int) -> None:
    if size <= 0 or size % step:
        raise CheckpointError(f"image size {size}: expected a multiple of {step}, such as {step * 12}")


def fit_positions(name: str, tensor: Tensor, config: NetworkConfig) -> Tensor:
    """Resample a position table to the network's image size; return every other tensor unchanged."""
    if name.endswith("relative_position_bias_table") and isinstance(config.backbone, SwinConfig):
        stage = int(name.split(".")[3]) - 1  # encoder.backbone.stages.#
        return resample_relative_positions(tensor, min(config.backbone.window, config.size // 4 // 2**stage))
    if name.endswith("pos_embed") and isinstance(config.backbone, VitConfig):
        return resample_positions(tensor, config.size // config.backbone.patch)
    return tensor
