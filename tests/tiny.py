"""A complete, valid model folder with random weights, a few kilobytes large, made without torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from anytag.models.card import Calibration, Card, ImageSpec, Platt, SearchFit, TextSpec
from anytag.models.folder import write_card
from anytag.vocabulary import Vocabulary

ALPHA = 4.0  # sharpness of the softmax over descriptions, in tags.onnx
BIAS = -1.5  # added to each logit, in tags.onnx
TEXT_WIDTH = 256
Array = npt.NDArray[Any]
_PATCH = 4  # pixels per side of a token
_OPSET = 17
_IR = 9

# id, kind, synonyms, parents, names in other languages
_TAGS: list[tuple[str, str, list[str], list[str], dict[str, str]]] = [
    ("dog", "object", ["hound", "puppy"], ["animal"], {"de": "Hund", "fr": "chien"}),
    ("cat", "object", ["kitten"], ["animal"], {"de": "Katze", "fr": "chat"}),
    ("beach", "scene", ["sea shore"], [], {"de": "Strand", "fr": "plage"}),
    ("animal", "object", ["creature"], [], {"de": "Tier"}),
    ("running", "action", ["run"], [], {}),
    ("red", "attribute", [], [], {"de": "rot"}),
    ("ice cream", "object", ["ice-cream cone"], ["food"], {"de": "Eis"}),
    ("food", "object", ["meal"], [], {}),
    ("bicycle", "object", ["bike"], ["vehicle"], {"de": "Fahrrad"}),
    ("vehicle", "object", [], [], {}),
    ("mountain", "scene", [], [], {"de": "Berg"}),
    ("tree", "object", [], [], {"de": "Baum"}),
]
_LOOKS = ["a photo of {}", "what people call {}", "a close view of {}", "{} seen from afar", "{} outdoors"]


def make_tiny_model(
    folder: Path, *, tags: int = 7, descriptions: int = 3, width: int = 8, size: int = 16, seed: int = 0
) -> Path:
    """Write a model folder of random weights; the same arguments write the same bytes.

    Where there are more than one description, the last tag has one less than the others: a padding row.

    Args:
        folder: made if it is missing.
        tags: K, the length of the vocabulary.
        descriptions: P, rows per tag.
        width: D of tokens and queries.
        size: side of the square image in pixels, at least 4.
        seed: of all weights.

    Returns:
        `folder`.
    """
    random = np.random.default_rng(seed)
    rows = _rows(tags)
    (folder / "text").mkdir(parents=True, exist_ok=True)
    onnx.save(image_graph(random, width=width), folder / "image.onnx")
    onnx.save(tags_graph(width=width), folder / "tags.onnx")
    save_file(_queries(random, tags, descriptions=descriptions, width=width), folder / "queries.safetensors")
    texts = _write_words(folder, rows, descriptions=descriptions)
    _write_text_encoder(folder / "text", random, texts, width=width)
    write_card(folder, _card(tags=tags, width=width, size=size))
    return folder


def with_parents(folder: Path, copy: Path, *, parents: Mapping[str, tuple[str, ...]]) -> Path:
    """A copy of a model folder whose tags have these parents, and no others."""
    shutil.copytree(folder, copy)
    tags = Vocabulary.read(copy / "vocabulary.jsonl")
    changed = [replace(tag, parents=parents.get(tag.id, ())) for tag in tags]
    Vocabulary(changed).write(copy / "vocabulary.jsonl")
    write_card(copy, Card.read(copy / "card.json"))
    return copy


def image_graph(random: np.random.Generator, *, width: int) -> onnx.ModelProto:
    """pixels uint8 N×3×S×S -> tokens float32 N×T×D, pooled float32 N×D: one convolution over 4×4 patches."""
    weights = {
        "mean": np.full((1, 3, 1, 1), 127.5, np.float32),
        "std": np.full((1, 3, 1, 1), 63.75, np.float32),
        "kernel": random.normal(0, 0.2, (width, 3, _PATCH, _PATCH)).astype(np.float32),
        "offset": random.normal(0, 0.5, width).astype(np.float32),
        "flat": np.array([0, width, -1], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["float", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "std"], ["normal"]),
        helper.make_node("Conv", ["normal", "kernel", "offset"], ["patches"], strides=[_PATCH, _PATCH]),
        helper.make_node("Reshape", ["patches", "flat"], ["columns"]),
        helper.make_node("Transpose", ["columns"], ["tokens"], perm=[0, 2, 1]),
        helper.make_node("ReduceMean", ["tokens"], ["pooled"], axes=[1], keepdims=0),
    ]
    inputs = [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", 3, "S", "S"])]
    outputs = [_float("tokens", ["N", "T", width]), _float("pooled", ["N", width])]
    return _model("image", nodes, inputs, outputs, weights)


def tags_graph(*, width: int) -> onnx.ModelProto:
    """tokens N×T×D, pooled N×D, queries Q×K×P×D with Q = 1 or N -> logits N×K, where N×K×T."""
    weights = {
        "alpha": np.float32(ALPHA),
        "bias": np.float32(BIAS),
        "root": np.float32(np.sqrt(width)),
        "tiny": np.float32(1e-12),
        "never": np.float32(-1e9),
        "zero": np.float32(0),
        "last": np.array([-1], np.int64),
        "rows": np.array([2], np.int64),
        "ends": np.array([1, 3], np.int64),
    }
    node = helper.make_node
    nodes = [
        # s = alpha · c·row with c = pooled / |pooled|; padding rows never win
        node("ReduceL2", ["pooled"], ["length"], axes=[-1], keepdims=1),
        node("Max", ["length", "tiny"], ["positive"]),
        node("Div", ["pooled", "positive"], ["unit"]),
        node("Unsqueeze", ["unit", "ends"], ["c"]),  # N×1×D×1
        node("MatMul", ["queries", "c"], ["cosine"]),  # N×K×P×1
        node("Mul", ["cosine", "alpha"], ["sharp"]),
        node("ReduceL1", ["queries"], ["mass"], axes=[-1], keepdims=1),
        node("Greater", ["mass", "zero"], ["real"]),  # Q×K×P×1
        node("Where", ["real", "sharp", "never"], ["s"]),
        # q = sum p · row with p = softmax of s over the rows
        node("Softmax", ["s"], ["p"], axis=2),
        node("Mul", ["queries", "p"], ["shares"]),  # N×K×P×D
        node("ReduceSum", ["shares", "rows"], ["q"], keepdims=0),  # N×K×D
        # o = tokens as q attends to them; logit = o·q + b
        node("Transpose", ["tokens"], ["keys"], perm=[0, 2, 1]),
        node("MatMul", ["q", "keys"], ["match"]),  # N×K×T
        node("Div", ["match", "root"], ["scaled"]),
        node("Softmax", ["scaled"], ["attention"], axis=-1),
        node("MatMul", ["attention", "tokens"], ["o"]),  # N×K×D
        node("Mul", ["o", "q"], ["products"]),
        node("ReduceSum", ["products", "last"], ["dot"], keepdims=0),
        node("Add", ["dot", "bias"], ["logits"]),
        node("Mul", ["attention", "match"], ["where"]),
    ]
    inputs = [_float("tokens", ["N", "T", width]), _float("pooled", ["N", width])]
    inputs.append(_float("queries", ["Q", "K", "P", width]))
    outputs = [_float("logits", ["N", "K"]), _float("where", ["N", "K", "T"])]
    return _model("tags", nodes, inputs, outputs, weights)


def _float(name: str, shape: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _model(
    name: str,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: dict[str, Any],
) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(np.asarray(value), key) for key, value in weights.items()]
    graph = helper.make_graph(nodes, name, inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    onnx.checker.check_model(model, full_check=True)
    return model


def _queries(random: np.random.Generator, tags: int, *, descriptions: int, width: int) -> dict[str, Array]:
    rows = random.integers(-127, 128, (tags, descriptions, width)).astype(np.int8)
    rows[..., 0] |= 1  # no row is all zero by chance
    scale = random.uniform(0.005, 0.01, (tags, descriptions)).astype(np.float16)
    if descriptions > 1:
        rows[-1, -1] = 0
    coarse = random.normal(0, 1, (tags, width + 1)).astype(np.float16)
    return {"rows": rows, "scale": scale, "coarse": coarse}


def _rows(tags: int) -> list[dict[str, Any]]:
    known = _TAGS[:tags] + [(f"thing {i}", "object", [], [], {}) for i in range(len(_TAGS), tags)]
    ids = {name for name, *_ in known}
    return [
        {
            "id": name,
            "name": name,
            "kind": kind,
            "names": names,
            "synonyms": synonyms,
            "parents": [parent for parent in parents if parent in ids],
            "threshold": 0.5,
        }
        for name, kind, synonyms, parents, names in known
    ]


def _write_words(folder: Path, rows: list[dict[str, Any]], *, descriptions: int) -> list[str]:
    """vocabulary.jsonl and descriptions.jsonl; returns every text of them."""
    described = []
    looks = [_LOOKS[i % len(_LOOKS)] + " again" * (i // len(_LOOKS)) for i in range(descriptions)]
    for row in rows:
        texts = [look.format(row["name"]) for look in looks]
        described.append({"id": row["id"], "descriptions": texts, "source": "tests"})
    if descriptions > 1:
        described[-1]["descriptions"].pop()
    for name, lines in (("vocabulary.jsonl", rows), ("descriptions.jsonl", described)):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / name).write_text(text, encoding="utf-8")
    names = [text for row in rows for text in (row["name"], *row["synonyms"])]
    return names + [text for line in described for text in line["descriptions"]]


def _write_text_encoder(folder: Path, random: np.random.Generator, texts: list[str], *, width: int) -> None:
    """A WordPiece tokenizer that knows the words of `texts`, and every other ASCII word by its characters."""
    words = sorted({word for text in texts for word in text.lower().replace("-", " ").split()})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    characters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    tokens = list(dict.fromkeys([*special, *characters, *(f"##{c}" for c in characters), *words]))
    ids = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    table = random.integers(-127, 128, (len(tokens), TEXT_WIDTH)).astype(np.int8)
    scale = random.uniform(0.005, 0.01, len(tokens)).astype(np.float32)
    save_file({"table": table, "scale": scale}, folder / "table.safetensors")
    hidden = 2 * width
    shapes = {"skip": (TEXT_WIDTH, width), "w1": (TEXT_WIDTH, hidden), "b1": (hidden,), "w2": (hidden, width)}
    shapes["b2"] = (width,)
    projection = {name: random.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(projection, folder / "projection.safetensors")


def _card(*, tags: int, width: int, size: int) -> Card:
    return Card(
        name="tiny",
        family="mini",
        version="0",
        description="Random weights for tests.",
        image=ImageSpec(size, "bilinear", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
        width=width,
        text=TextSpec("static", "text"),
        calibration=Calibration(vocabulary=Platt(1.0, 0.0), own=Platt(0.5, -0.25)),
        shortlist=max(1, tags // 2),
        licence="Apache-2.0",
        training_data="none",
        thresholds="0.5 for every tag, by decree",
        metrics={"nothing": 0.0},
        files={},
        search=SearchFit(
            1.49, -3.11, 1.86, -9.9, scale=0.61, per_term=0.94, bias=-2.71, whole_scale=1.42, whole_bias=-6.0
        ),
    )
