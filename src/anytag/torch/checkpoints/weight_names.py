"""Published weight names <-> ours: one table per family, used in both directions.

A row is a pair of prefixes, (published, ours); the rest of the name is the same on both sides. `#` stands for
a number, and `#+1` on our side for that number plus one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache

Row = tuple[str, str]
Table = tuple[Row, ...]

_ENCODER = "encoder.backbone."


def _cross_layer(published: str, ours: str) -> Table:
    """Names of a layer of cross-attention and MLP."""
    return (
        *_attention(f"{published}.crossattention", f"{ours}.cross"),
        (f"{published}.intermediate.dense.", f"{ours}.mlp.up."),
        (f"{published}.output.dense.", f"{ours}.mlp.down."),
        (f"{published}.output.LayerNorm.", f"{ours}.mlp.norm."),
    )


def _attention(published: str, ours: str) -> Table:
    return (
        *((f"{published}.self.{part}.", f"{ours}.{part}.") for part in ("query", "key", "value")),
        (f"{published}.output.dense.", f"{ours}.dense."),
        (f"{published}.output.LayerNorm.", f"{ours}.norm."),
    )


def _text_stack(published: str, ours: str) -> Table:
    """Names of embeddings and layers of the tag encoder or of the text decoder."""
    layer, own = f"{published}.encoder.layer.#", f"{ours}.layers.#"
    return (
        (f"{published}.embeddings.word_embeddings.", f"{ours}.embeddings.words."),
        (f"{published}.embeddings.position_embeddings.", f"{ours}.embeddings.positions."),
        (f"{published}.embeddings.LayerNorm.", f"{ours}.embeddings.norm."),
        *_attention(f"{layer}.attention", f"{own}.attend"),
        *_cross_layer(layer, f"{own}.cross"),
    )


SWIN: Table = (
    ("visual_encoder.patch_embed.", f"{_ENCODER}stages.0."),
    ("visual_encoder.layers.#.blocks.", f"{_ENCODER}stages.#+1.blocks."),
    # timm's stages begin with the downsampling that ends the published ones
    ("visual_encoder.layers.#.downsample.", f"{_ENCODER}stages.#+2.downsample."),
    ("visual_encoder.norm.", f"{_ENCODER}norm."),
)
VIT: Table = (
    ("visual_encoder.patch_embed.", f"{_ENCODER}stages.0.patch_embed."),
    ("visual_encoder.cls_token", f"{_ENCODER}stages.0.cls_token"),
    ("visual_encoder.pos_embed", f"{_ENCODER}stages.0.pos_embed"),
    ("visual_encoder.blocks.#.", f"{_ENCODER}stages.#+1."),
    ("visual_encoder.norm.", f"{_ENCODER}norm."),
)
_TAGGING_HEAD = _cross_layer("tagging_head.encoder.layer.#", "decoder.layers.#")
_TEXT_VECTORS: Table = (
    ("image_proj.", "encoder.proj."),
    ("wordvec_proj.", "decoder.project."),
    ("fc.", "decoder.head."),
    ("label_embed", "queries.rows"),  # tags and descriptions in one axis, tag by tag
)
_CAPTIONS: Table = (
    *_text_stack("tag_encoder", "captions.encoder"),
    *_text_stack("text_decoder.bert", "captions.decoder"),
    ("text_decoder.cls.predictions.transform.dense.", "captions.dense."),
    ("text_decoder.cls.predictions.transform.LayerNorm.", "captions.norm."),
    ("text_decoder.cls.predictions.bias", "captions.bias"),
)

FAMILY_TABLES: Mapping[str, Table] = {
    "tag2text": (
        *_TAGGING_HEAD,
        *_CAPTIONS,
        ("label_embed.weight", "queries.embed"),
        ("fc.W", "queries.weight"),
        ("fc.b", "queries.bias"),
    ),
    "ram": (*_TAGGING_HEAD, *_CAPTIONS, *_TEXT_VECTORS),
    "ram-plus": (*_TAGGING_HEAD, *_TEXT_VECTORS, ("reweight_scale", "decoder.reweight_scale")),
}

# Names in older checkpoints.
LEGACY: Table = (("vision_multi.", "tagging_head."),)
# Computed from the configuration instead of being read.
DERIVED = (".relative_position_index", ".attn_mask", ".position_ids")
# Tied tensor -> the tensor it is tied to.
TIED: Mapping[str, str] = {
    "text_decoder.cls.predictions.decoder.weight": "text_decoder.bert.embeddings.word_embeddings.weight",
    "text_decoder.cls.predictions.decoder.bias": "text_decoder.cls.predictions.bias",
}


def to_ours(name: str, table: Iterable[Row]) -> str | None:
    """Our name of a published tensor; None if it is derived or not in the table."""
    return None if name.endswith(DERIVED) else _translate(name, tuple(table))


def to_published(name: str, table: Iterable[Row]) -> str | None:
    """The published name of one of our tensors; None if it is not in the table."""
    return _translate(name, tuple((right, left) for left, right in table))


def _translate(name: str, table: Table) -> str | None:
    for source, target in table:
        match = _pattern(source).match(name)
        if match:
            return _fill(source, target, match) + name[match.end() :]
    return None


@cache
def _pattern(beginning: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\#(\\\+\d)?", r"(\\d+)", re.escape(beginning)))


def _fill(source: str, target: str, match: re.Match[str]) -> str:
    if not match.groups():
        return target
    number = int(match[1]) - _shift(source) + _shift(target)
    return re.sub(r"#(\+\d)?", str(number), target)


def _shift(beginning: str) -> int:
    match = re.search(r"#\+(\d)", beginning)
    return int(match[1]) if match else 0
