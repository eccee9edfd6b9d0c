"""Configurations of the model families in one table. A new family is a new entry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Triple = tuple[float, float, float]
Queries = Literal["descriptions", "embedded", "learned"]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
# EfficientNet-Lite's normalisation, in multiples of 1/255, so that an int8 graph takes pixels unchanged.
LITE_MEAN: Triple = (127 / 255, 127 / 255, 127 / 255)
LITE_STD: Triple = (128 / 255, 128 / 255, 128 / 255)

BUILD_ERRORS = (
    RuntimeError, ValueError, TypeError, AssertionError, IndexError, ArithmeticError, MemoryError
)  # fmt: skip
"""Errors that libraries raise for an invalid network configuration."""


@dataclass(frozen=True)
class SwinConfig:
    """A Swin transformer (Liu et al. 2021) with 4-pixel patches; `width` is the first stage's."""

    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int


@dataclass(frozen=True)
class VitConfig:
    """A vision transformer with a class token (Dosovitskiy et al. 2021)."""

    width: int
    depth: int
    heads: int
    patch: int = 16
    drop_path: float = 0.0


@dataclass(frozen=True)
class CrossConfig:
    """A BERT-style tag decoder: layers of cross-attention and MLP, without self-attention.

    Attributes:
        hidden: H, width of the hidden states.
        layers: number of layers.
        mlp: hidden width of the MLP.
    """

    hidden: int = 768
    layers: int = 2
    mlp: int = 3072


@dataclass(frozen=True)
class CaptionConfig:
    """A tag encoder and a text decoder (Tag2Text, section 3.2).

    Attributes:
        words: vocabulary size in wordpieces, special ones included.
        layers: number of layers of the encoder, and of the decoder.
        shared: number of first encoder layers that share cross-attention and MLP with the tag decoder.
        width: H; equal to the tag decoder's where layers are shared.
        positions: maximum length of a text in wordpieces.
        tag_length: length of the tags' text in wordpieces.
        prompt: prefix of every caption; not part of the result.
    """

    words: int = 30524
    layers: int = 12
    shared: int = 2
    heads: int = 12
    width: int = 768
    mlp: int = 3072
    positions: int = 512
    tag_length: int = 40
    prompt: str = "a picture of "


@dataclass(frozen=True)
class AlignmentConfig:
    """Contrastive and matching heads for photos and texts (Tag2Text, section 3.2).

    Attributes:
        words: vocabulary size in wordpieces, special ones included; the same as the caption head's.
        layers: number of layers of the text encoder.
        width: H, of text encoder and encoded tags; the same as the caption head's.
        space: E, dimension of the joint space of photos and texts.
        positions: maximum length of a text in wordpieces.
    """

    words: int = 30524
    layers: int = 12
    heads: int = 12
    width: int = 768
    mlp: int = 3072
    space: int = 256
    positions: int = 512


@dataclass(frozen=True)
class EvidenceConfig:
    """Class probabilities of the pretrained classifier as an additional input to the pooled vector.

    Attributes:
        classes: number of classes of the classifier.
        words: width of the text vectors of the class names.
        hidden: hidden width of the MLP.
    """

    classes: int = 1000
    words: int = 256
    hidden: int = 256


@dataclass(frozen=True)
class NetworkConfig:
    """Configuration of one network.

    Attributes:
        backbone: timm's name of an EfficientNet, or the configuration of a transformer.
        size: side of the square input in pixels.
        width: D, width of the image tokens.
        heads: number of heads of the decoder's cross-attention.
        text_hidden: hidden width of the query projection that is trained with the folded decoder; 0: none.
        evidence: what a classifier of the backbone's features adds to the pooled vector; None: nothing.
        projected: whether the backbone's tokens are projected to `width`; otherwise `width` is their own.
        queries: content of a query row. "descriptions": a text vector, reweighted by the photo; "embedded": a
            text vector, averaged; "learned": query, weight vector and bias of one tag.
        cross: configuration of the cross decoder; None: the folded decoder.
        captions: configuration of the caption head; None: no caption head.
        alignment: configuration of the alignment heads, which need a caption head; None: none.
        mean, std: normalisation of pixels in [0, 1], RGB.
    """

    backbone: str | SwinConfig | VitConfig
    size: int
    width: int
    heads: int
    text_hidden: int = 0
    evidence: EvidenceConfig | None = None
    projected: bool = True
    queries: Queries = "descriptions"
    cross: CrossConfig | None = None
    captions: CaptionConfig | None = None
    alignment: AlignmentConfig | None = None
    mean: Triple = LITE_MEAN
    std: Triple = LITE_STD


SWIN_BASE = SwinConfig(width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32), window=12)
SWIN_LARGE = SwinConfig(width=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48), window=12)
VIT_BASE = VitConfig(width=768, depth=12, heads=12)
VIT_LARGE = VitConfig(width=1024, depth=24, heads=16, drop_path=0.1)

FAMILIES = {
    "mini": NetworkConfig(
        backbone="tf_efficientnet_lite0",
        size=256,
        width=512,
        heads=4,
        text_hidden=512,
        evidence=EvidenceConfig(),
    ),
    "tag2text": NetworkConfig(
        backbone=SWIN_BASE,
        size=384,
        width=1024,
        heads=4,
        projected=False,
        queries="learned",
        cross=CrossConfig(),
        captions=CaptionConfig(),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ),
    "ram": NetworkConfig(
        backbone=SWIN_LARGE,
        size=384,
        width=512,
        heads=4,
        queries="embedded",
        cross=CrossConfig(),
        captions=CaptionConfig(),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ),
    "ram-plus": NetworkConfig(
        backbone=SWIN_LARGE,
        size=384,
        width=512,
        heads=4,
        cross=CrossConfig(),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ),
}
