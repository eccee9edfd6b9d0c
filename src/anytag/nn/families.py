"""The families as rows of one table. A new family is a new row here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NetworkConfig:
    """Numbers of one network.

    Attributes:
        backbone: timm's name.
        size: side of the square input in pixels.
        width: D, of tokens and queries.
        heads: of the decoder's cross-attention.
        text_hidden: of the query projection.
    """

    backbone: str
    size: int
    width: int
    heads: int
    text_hidden: int


FAMILIES = {
    "mini": NetworkConfig(backbone="tf_efficientnet_lite0", size=224, width=512, heads=4, text_hidden=512),
}
