"""Teachers for distillation: CLIP's image tower (RAM, section 3.3)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anytag.errors import ModelError
from anytag.torch.clip import require_transformers
from anytag.torch.training.recipes import CLIP_MEAN, CLIP_STD


class ClipTeacher(nn.Module):
    """Unnormalised image features of CLIP for the student's crop.

    Args:
        tower: the image tower with projection, as transformers loads it.
        size: side of its input in pixels.

    Attributes:
        width: D, width of the features.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, tower: Any, *, size: int) -> None:
        super().__init__()
        self.tower, self.size = tower.eval().requires_grad_(False), size
        self.width = int(tower.config.projection_dim)
        for name, values in (("mean", CLIP_MEAN), ("std", CLIP_STD)):
            self.register_buffer(name, torch.tensor(values).reshape(3, 1, 1))

    @classmethod
    def load(cls, name: str | Path) -> ClipTeacher:
        """Load the image tower of a CLIP model: a folder in transformers' format, or a name on the Hub.

        Raises:
            MissingExtraError: transformers is not installed.
            ModelError: no CLIP model can be loaded from there, or weights are missing.
        """
        library = require_transformers()
        try:
            tower, loading_info = library.CLIPVisionModelWithProjection.from_pretrained(
                str(name), output_loading_info=True
            )
            if missing := sorted(loading_info["missing_keys"]):
                raise ValueError(f"it lacks {', '.join(missing[:3])}")
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelError(f"{name}: no CLIP image tower can be loaded ({error})") from error
        return cls(tower, size=int(tower.config.image_size))

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 N×3×S×S -> N×D."""
        x = (pixels.float() / 255 - self.mean) / self.std
        if x.shape[-1] != self.size:
            x = F.interpolate(x, size=self.size, mode="bicubic", antialias=True)
        features: Tensor = self.tower(pixel_values=x).image_embeds
        return features
