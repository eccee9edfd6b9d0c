"""Text vectors -> query rows of the decoder."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

_STORED = {"skip.weight": "skip", "fc1.weight": "w1", "fc1.bias": "b1", "fc2.weight": "w2", "fc2.bias": "b2"}


class QueryProjection(nn.Module):
    """Unit text vectors -> rows, by a linear map plus a small MLP.

    Args:
        text_width: width of the text vectors.
        width: D, the width of the rows.
        hidden: hidden width of the MLP.
    """

    def __init__(self, text_width: int, width: int, *, hidden: int) -> None:
        super().__init__()
        self.skip = nn.Linear(text_width, width, bias=False)
        self.fc1 = nn.Linear(text_width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        nn.init.normal_(self.skip.weight, std=0.02)
        nn.init.normal_(self.fc2.weight, std=0.02)
        nn.init.zeros_(self.fc2.bias)

    def forward(self, text: Tensor) -> Tensor:
        """... × text_width -> ... × D. A zero vector (padding) stays zero."""
        rows: Tensor = self.skip(text) + self.fc2(self.fc1(text).relu())
        return rows * (text != 0).any(-1, keepdim=True)

    def arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """The weights in the format of a static text encoder, float32."""
        return {_STORED[name]: x.detach().float().numpy().T for name, x in self.named_parameters()}

    @torch.no_grad()
    def load_arrays(self, arrays: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Load the weights of a static text encoder."""
        for name, parameter in self.named_parameters():
            parameter.copy_(torch.from_numpy(arrays[_STORED[name]].T))


class TagQueries(nn.Module):
    """Rows of the trained tags: projected descriptions plus a learned residual per tag.

    In training the residuals of random tags are dropped, so that the projected text alone works too: a user's
    custom tag has nothing else.

    Args:
        text: K×P×text_width unit vectors of the descriptions; zero rows at the end of a tag are padding.
        width: D.
        hidden: hidden width of the projection.
        residual_drop: probability that a tag is trained without its residual.
    """

    text: Tensor

    def __init__(self, text: Tensor, width: int, *, hidden: int, residual_drop: float = 0.25) -> None:
        super().__init__()
        self.register_buffer("text", text)
        self.projection = QueryProjection(text.shape[-1], width, hidden=hidden)
        self.residual = nn.Parameter(torch.zeros(text.shape[0], width))
        self.residual_drop = residual_drop

    def forward(
        self, tags: Tensor | None = None, *, words_only: bool = False, only: int | None = None
    ) -> Tensor:
        """Rows K×P×D of the tags at `tags` (int64), or of all; in training random descriptions are dropped.

        Args:
            words_only: omit the residuals.
            only: number of descriptions drawn at random, with replacement, instead of all of a tag.
        """
        text = self.text if tags is None else self.text[tags]
        residual = self.residual if tags is None else self.residual[tags]
        if only is not None:
            count = (text != 0).any(-1).sum(1, keepdim=True)  # padding comes after the descriptions
            drawn = (torch.rand(len(text), only, device=text.device) * count).long()
            text = text.gather(1, drawn[:, :, None].expand(-1, -1, text.shape[2]))
        elif self.training:
            text = text * self._description_mask(text).unsqueeze(-1)
        if self.training:
            residual = residual * (torch.rand(len(text), 1, device=text.device) >= self.residual_drop)
        rows: Tensor = self.projection(text)
        if words_only:
            return rows
        return rows + residual[:, None] * (text != 0).any(-1, keepdim=True)

    @staticmethod
    def _description_mask(text: Tensor) -> Tensor:
        """Bool K×P: keep each description with probability 0.7, and the name if none would be left."""
        mask = (torch.rand(text.shape[:2], device=text.device) < 0.7) & (text != 0).any(-1)
        mask[:, 0] |= ~mask.any(1)
        return mask


class LearnedQueries(nn.Module):
    """Learned rows without text (Tag2Text): query, output weights and output bias of each tag.

    Args:
        count: K, the number of tags.
        hidden: H, the width of the tag decoder.
    """

    def __init__(self, count: int, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Parameter(torch.empty(count, hidden))
        self.weight = nn.Parameter(torch.empty(1, count, hidden))
        self.bias = nn.Parameter(torch.empty(1, count))
        nn.init.normal_(self.embed, std=0.02)
        for answer in (self.weight, self.bias):
            nn.init.uniform_(answer, -(hidden**-0.5), hidden**-0.5)

    def forward(self, tags: Tensor | None = None) -> Tensor:
        """Rows 1×K×1×(2H+1) of the tags at `tags` (int64), or of all."""
        rows = torch.cat([self.embed, self.weight[0], self.bias[0, :, None]], 1)
        return (rows if tags is None else rows[tags])[None, :, None]
