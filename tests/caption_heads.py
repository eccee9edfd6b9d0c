"""Small caption heads with random weights, sure enough of themselves that their captions differ."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from anytag.models.card import Card
from anytag.models.folder import ModelFolder, write_card
from anytag.runtime.onnx import OnnxRuntime
from anytag.torch.captions import Head
from anytag.torch.export.caption_graphs import export_caption_graphs
from anytag.torch.nn.caption_head import CaptionHead
from anytag.torch.nn.configs import CaptionConfig
from anytag.torch.nn.small_caption_head import GuidedHead
from tests.tiny import make_tiny_model

TOKENS, WIDTH = 5, 12
CONFIG = CaptionConfig(
    words=60, layers=2, shared=0, heads=2, width=16, mlp=32, positions=40, tag_length=7, prompt="a "
)


def tiny_head(
    kind: str, *, words: int = CONFIG.words, seed: int = 0, width: int = WIDTH, tokens: int = TOKENS
) -> Head:
    """A "published" or a "guided" head."""
    torch.manual_seed(seed)
    config = CaptionConfig(**{**vars(CONFIG), "words": words})
    head: Head
    if kind == "guided":
        head = GuidedHead(config, width, tokens=tokens)
        nn.init.normal_(head.places, std=0.5)
    else:
        head = CaptionHead(config, width)
    for parameter in head.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.4)
    return head.eval().requires_grad_(False)


def exported(head: Head, folder: Path, *, tokens: tuple[int, int] = (TOKENS, WIDTH)) -> OnnxRuntime:
    """The head's graphs in a model folder, opened."""
    make_tiny_model(folder)
    export_caption_graphs(head, folder, tokens=tokens)
    write_card(folder, Card.read(folder))
    return OnnxRuntime(ModelFolder.open(folder), device="cpu")
