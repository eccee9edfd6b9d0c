"""The network that a golden case is about: our modules with its numbers and its weights."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from anytag.torch.checkpoints.resample import resample_relative_positions
from anytag.torch.checkpoints.weight_names import (
    DERIVED,
    FAMILY_TABLES,
    LEGACY,
    SWIN,
    TIED,
    VIT,
    Row,
    to_ours,
)
from anytag.torch.nn.configs import (
    FAMILIES,
    CaptionConfig,
    CrossConfig,
    NetworkConfig,
    SwinConfig,
    VitConfig,
)
from anytag.torch.nn.cross_decoder import CrossDecoder
from anytag.torch.nn.network import TagNetwork
from anytag.torch.nn.query_modules import LearnedQueries
from tests.golden_cases import Case

Weights = dict[str, Tensor]
DEVICE = os.environ.get("ANYTAG_TEST_DEVICE", "cpu")
"""Where networks and inputs of golden cases are: benchmarks/gpu.py runs the same tests on a GPU."""


def family_of(case: Case) -> str:
    """Our name of the family."""
    return str(case.facts["family"]).replace("_", "-")


def config_of(case: Case) -> NetworkConfig:
    """The family's row with the numbers of the case."""
    said, row = case.config, FAMILIES[family_of(case)]
    captions = None
    if row.captions is not None and any(name.startswith("tag_encoder.") for name in case.weights):
        captions = caption_config(said)
    return replace(
        row,
        backbone=vit_config(said) if said["backbone"] == "vit" else swin_config(said),
        size=said["image_size"],
        width=said.get("text_width", said["vision_width"]),
        heads=said["tagging_heads"],
        cross=CrossConfig(said["hidden_size"], said["tagging_layers"], said["intermediate_size"]),
        captions=captions,
    )


def vit_config(said: dict[str, Any]) -> VitConfig:
    return VitConfig(said["embed_dim"], said["depth"], said["num_heads"], said["patch_size"])


def swin_config(said: dict[str, Any]) -> SwinConfig:
    return SwinConfig(said["embed_dim"], tuple(said["depths"]), tuple(said["num_heads"]), said["window_size"])


def caption_config(said: dict[str, Any]) -> CaptionConfig:
    return CaptionConfig(
        words=said["vocab_size"],
        layers=said["bert_layers"],
        shared=said["tagging_layers"],
        heads=said["bert_heads"],
        width=said["hidden_size"],
        mlp=said["intermediate_size"],
        positions=said["max_position_embeddings"],
        prompt=said["prompt"],
    )


def network_of(case: Case) -> tuple[TagNetwork, Tensor | LearnedQueries]:
    """The network with the case's weights, for evaluation, and its trained queries 1×K×P×R, or a module."""
    config = config_of(case)
    weights = our_weights(case, config)
    queries = make_queries(case, config, weights)
    network = TagNetwork(config).eval()
    network.load_state_dict(weights)
    return network.to(DEVICE), queries.to(DEVICE)


def our_weights(case: Case, config: NetworkConfig) -> Weights:
    """The stored weights under our names; every one is accounted for."""
    backbone = VIT if isinstance(config.backbone, VitConfig) else SWIN
    table: tuple[Row, ...] = (*backbone, *FAMILY_TABLES[family_of(case)])
    made: Weights = {}
    for name, array in case.weights.items():
        mine = our_name(name, table)
        if mine is None:
            assert name.endswith(DERIVED) or name in TIED, name
            continue
        made[mine] = torch.from_numpy(array)
    return {name: fitting(name, tensor, config) for name, tensor in made.items()}


def our_name(name: str, table: tuple[Row, ...]) -> str | None:
    return to_ours(to_ours(name, LEGACY) or name, table)


def fitting(name: str, tensor: Tensor, config: NetworkConfig) -> Tensor:
    if name.endswith("relative_position_bias_table") and isinstance(config.backbone, SwinConfig):
        stage = int(name.split(".")[3]) - 1
        resolution = config.size // 4 // 2**stage
        return resample_relative_positions(tensor, min(config.backbone.window, resolution))
    return tensor


def make_queries(case: Case, config: NetworkConfig, weights: Weights) -> Tensor | LearnedQueries:
    """Takes the queries out of the weights."""
    parts = {name: weights.pop(name) for name in list(weights) if name.startswith("queries.")}
    if config.queries != "learned":
        return as_rows(parts["queries.rows"], case.config["num_tags"])
    assert config.cross is not None
    learned = LearnedQueries(case.config["num_tags"], config.cross.hidden)
    learned.load_state_dict({name.removeprefix("queries."): tensor for name, tensor in parts.items()})
    return learned


def as_rows(table: Tensor, tags: int) -> Tensor:
    """KP×D, tag by tag -> 1×K×P×D."""
    return table.reshape(1, tags, -1, table.shape[-1])


def tensor(array: npt.NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(DEVICE)


def rows_of(queries: Tensor | LearnedQueries) -> Tensor:
    return queries() if isinstance(queries, nn.Module) else queries


def check_tagging(case: Case, network: TagNetwork, rows: Tensor, *, prefix: str = "") -> Tensor:
    """Every stored step from the photo to the logits, which are returned."""
    encoder, decoder, x = network.encoder, network.decoder, tensor(case.inputs["image"])
    assert isinstance(decoder, CrossDecoder)
    case.check("image_tokens", encoder.backbone.tokens(encoder.backbone(x)))
    tokens, pooled = encoder.from_stage(x, 0)
    if "image_embeds" in case.outputs:
        case.check("image_embeds", tokens)
    asked = decoder.embed(pooled, rows)
    case.check(f"{prefix}queries", asked.expand(len(tokens), -1, -1))
    case.check(f"{prefix}decoder_out", decoder.decode(asked, decoder.project_kv(tokens)))
    logits: Tensor = decoder(tokens, pooled, rows)
    case.check(f"{prefix}logits", logits)
    return logits
