"""Tiny CLIP models with random weights, as transformers and open_clip write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from safetensors.torch import save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz.-'0123456789"


def save_tiny_clip(folder: Path, *, width: int = 8) -> Path:
    """A text tower of one layer that reads letters, in transformers' form.

    Args:
        width: of the text vectors.
    """
    units = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({unit: number for number, unit in enumerate(units)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    config = CLIPTextConfig(
        vocab_size=len(units),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=77,
        projection_dim=width,
        bos_token_id=len(units) - 2,
        eos_token_id=len(units) - 1,
        pad_token_id=len(units) - 1,
    )
    torch.manual_seed(0)
    CLIPTextModelWithProjection(config).save_pretrained(folder)
    return folder


def save_tiny_image_tower(folder: Path, *, width: int) -> Path:
    """An image tower of one layer, in transformers' form."""
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
        projection_dim=width,
    )
    torch.manual_seed(0)
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return folder


def save_tiny_open_clip(folder: Path, *, width: int) -> Path:
    """A whole model of one layer a tower, in open_clip's form."""
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    photo = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
    config = {"embed_dim": width, "vision_cfg": photo, "text_cfg": text, "quick_gelu": True}
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    torch.manual_seed(0)
    model: Any = open_clip.CLIP(**config)
    torch.nn.init.normal_(model.token_embedding.weight)  # so that texts differ
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def embed_slowly(folder: Path, texts: list[str]) -> npt.NDArray[np.float32]:
    """Unit vectors n×W, one text at a time, by transformers alone."""
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    tower: Any = CLIPTextModelWithProjection.from_pretrained(folder)
    tower.eval()
    with torch.inference_mode():
        tokens = [tokenizer(one, return_tensors="pt", truncation=True, max_length=77) for one in texts]
        rows = [tower(**one).text_embeds for one in tokens]
    vectors = torch.nn.functional.normalize(torch.cat(rows), dim=1)
    return np.asarray(vectors.numpy())
