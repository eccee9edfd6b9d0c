"""A network for another image size, and its position tables, as the published loaders make them."""

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
    """Swin's table of relative positions for another window: a bicubic spline on geometric coordinates.

    Args:
        table: (2v-1)²×heads of a window of v.
        window: the new window, w.

    Returns:
        (2w-1)²×heads; the table itself where the window is the same.
    """
    side, target_side = math.isqrt(len(table)), 2 * window - 1
    if side == target_side:
        return table
    from scipy.interpolate import RectBivariateSpline  # 30 MB that a folder need not load to be run

    known = _coordinates(side, target_side)
    target = np.arange(-(target_side // 2), target_side // 2 + 1).clip(known[0], known[-1])
    made = [
        RectBivariateSpline(known, known, plane)(target, target)
        for plane in table.detach().double().T.reshape(-1, side, side).numpy()
    ]
    return torch.from_numpy(np.stack(made)).to(table.dtype).reshape(len(made), -1).T.contiguous()


def _coordinates(side: int, target_side: int) -> Doubles:
    """Where the table's entries lie in units of the wanted one: ±(1, 1 + q, 1 + q + q², ...) and 0."""
    steps = _ratio(side // 2, target_side // 2) ** np.arange(side // 2)
    half = steps.cumsum()
    return np.concatenate([-half[::-1], [0.0], half])


def _ratio(steps: int, reach: int) -> float:
    """q, so that `steps` steps of 1, q, q², ... reach `reach`: the last midpoint of a bisection."""
    low, high, q = 1.01, 1.5, 0.0
    while high - low > _PRECISION:
        q = (low + high) / 2
        if (1 - q**steps) / (1 - q) > reach:
            high = q
        else:
            low = q
    return q


def resample_positions(table: Tensor, count: int) -> Tensor:
    """ViT's learned positions for another grid: bicubic; the class token's stays.

    Args:
        table: 1×(1+g²)×C.
        count: G, the new grid's side.

    Returns:
        1×(1+G²)×C; the table itself where the grid is the same.
    """
    side = math.isqrt(table.shape[1] - 1)
    if side == count:
        return table
    grid = table[:, 1:].transpose(1, 2).reshape(1, -1, side, side)  # 1×C×g×g
    made = F.interpolate(grid, size=(count, count), mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], made.flatten(2).transpose(1, 2)], 1)


def resized(config: NetworkConfig, size: int | None) -> NetworkConfig:
    """The configuration at another image size: Swin's window grows with it, as the published ones do."""
    if size is None or size == config.size:
        return config
    backbone = config.backbone
    if isinstance(backbone, SwinConfig):
        coarsest = 4 * 2 ** (len(backbone.depths) - 1)
        _refuse_size(size, coarsest)
        backbone = replace(backbone, window=size // coarsest)
    elif isinstance(backbone, VitConfig):
        _refuse_size(size, backbone.patch)
    return replace(config, backbone=backbone, size=size)


def _refuse_size(size: int, step: int) -> None:
    if size <= 0 or size % step:
        raise CheckpointError(f"image size {size}: expected a multiple of {step}, as {step * 12} is")


def fit_positions(name: str, tensor: Tensor, config: NetworkConfig) -> Tensor:
    """A table of positions at the network's image size; every other tensor as it is."""
    if name.endswith("relative_position_bias_table") and isinstance(config.backbone, SwinConfig):
        stage = int(name.split(".")[3]) - 1  # encoder.backbone.stages.#
        return resample_relative_positions(tensor, min(config.backbone.window, config.size // 4 // 2**stage))
    if name.endswith("pos_embed") and isinstance(config.backbone, VitConfig):
        return resample_positions(tensor, config.size // config.backbone.patch)
    return tensor
