"""Add CLIP's text tower to a converted model, so that custom tags use the text encoder it was trained with.

CLIP is read in the format of transformers or open_clip, and only here: the folder gets a graph and a
tokenizer, so that custom tags need neither these libraries nor torch, and the folder contains no code.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn

from anytag.errors import MissingExtraError, ModelError
from anytag.models.card import TextSpec
from anytag.models.folder import ModelFolder, edited, write_card
from anytag.runtime.onnx import TEXT
from anytag.runtime.text_onnx import TOKENIZER, open_text_encoder
from anytag.text_encoders.prompts import unit
from anytag.text_encoders.queries import Prompts, tag_rows
from anytag.torch.checkpoints.load import load_queries, read_config
from anytag.torch.clip import load_clip
from anytag.torch.export.onnx_graphs import export_graph
from anytag.torch.export.parity import check_parity
from anytag.vocabulary import Vocabulary

FOLDER = "text/clip"
_OPEN_CLIP = "open_clip_config.json"
_PROMPTS: dict[str, Prompts] = {"embedded": "templates", "descriptions": "descriptions"}
_COMPARED = 4  # number of trained tags; RAM encodes 63 prompts for each
# CLIP's pre-tokenisation: contractions, letters, single digits, everything else.
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class _Tower(nn.Module):
    """Token ids N×L -> text vectors N×W."""

    def __init__(self, model: nn.Module, embed: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.embed = model, embed

    def forward(self, ids: Tensor) -> Tensor:
        return self.embed(ids)


@dataclass(frozen=True, eq=False)
class TextTower:
    """A text encoder and its tokenizer.

    Attributes:
        module: token ids int64 N×L -> text vectors N×W.
        tokenizer: truncates texts, and pads them with tokens that the module ignores.
        dynamic: the dynamic ones of the axes N and L.
        origin: origin of the weights, for the card.
    """

    module: nn.Module
    tokenizer: Tokenizer
    dynamic: str
    origin: str


@dataclass(frozen=True, slots=True)
class TextTowerReport:
    """The result of adding a text tower.

    Attributes:
        width: width of its vectors.
        prompts: kind of the prompts for a tag.
        agreement: mean cosine of trained queries with the tower's vectors of the same tags: near 1 if the
            model was trained with this tower.
    """

    width: int
    prompts: Prompts
    agreement: float


def read_tower(source: str | Path) -> TextTower:
    """Read the text tower of a CLIP model.

    Args:
        source: a folder in the format of transformers or open_clip. No code in it is run, and nothing is
            downloaded.

    Raises:
        MissingExtraError: the library for its format is not installed.
        ModelError: it is not a CLIP model.
    """
    source = Path(source)
    if not source.is_dir():
        raise ModelError(
            f"{source} is not a folder; expected a CLIP model in transformers' or open_clip's format"
        )
    if (source / _OPEN_CLIP).is_file() and not _is_transformers(source):
        return _open_clip_tower(source)
    return _transformers_tower(source)


def add_text(folder: str | Path, tower: TextTower) -> TextTowerReport:
    """Write a text tower into a converted folder, replacing an existing one.

    The graph is compared with the tower first.

    Raises:
        ModelError: the folder's queries are not text vectors, or have another width; or the graph and the
            tower differ.
    """
    model = ModelFolder.open(folder)
    config = read_config(model.card)
    if config.queries not in _PROMPTS or config.cross is None:
        raise ModelError(f"{model.card.name} cannot have custom tags: its queries are not text vectors")
    spec = TextSpec("onnx", FOLDER, _PROMPTS[config.queries])
    with edited(model) as draft:
        (draft / FOLDER).mkdir(parents=True)
        width = _write(tower, draft / FOLDER)
        if width != model.card.width:
            raise ModelError(
                f"the text vectors of {tower.origin} have width {width}, but {model.card.name} was trained "
                f"with {model.card.width}: give the text tower it was trained with (published: CLIP ViT-B/16)"
            )
    facts = {"from": tower.origin, "width": width}
    card = replace(model.card, text=spec, source={**model.card.source, "text": facts})
    model = ModelFolder(model.path, write_card(model.path, card))
    return TextTowerReport(width, spec.prompts, _agreement(model, spec.prompts))


def _write(tower: TextTower, draft: Path) -> int:
    """Write graph and tokenizer into a folder; return the width of the vectors."""
    tower.tokenizer.save(str(draft / TOKENIZER))
    two, one, three = (_ids(tower, count) for count in (2, 1, 3))
    export_graph(tower.module, draft / TEXT, (two,), {"ids": "NL", "vectors": "NW"}, dynamic=tower.dynamic)
    check_parity(tower.module, draft / TEXT, [(one,), (three,)])
    with torch.inference_mode():
        return int(tower.module(one).shape[1])


def _ids(tower: TextTower, count: int) -> Tensor:
    """Token ids of `count` example texts."""
    texts = ["a photo of a dog" + " and a cat" * number for number in range(count)]
    return torch.tensor([encoding.ids for encoding in tower.tokenizer.encode_batch(texts)])


def _agreement(model: ModelFolder, prompts: Prompts) -> float:
    """Mean cosine of the first trained row of a tag and the tower's row for its name."""
    encoder, rows = open_text_encoder(model), load_queries(model)
    tags = list(Vocabulary.read(model.file("vocabulary.jsonl")))
    numbers = np.linspace(0, len(tags) - 1, min(_COMPARED, len(tags))).astype(int).tolist()
    text_rows = np.stack([tag_rows(tags[k].name, (), encoder, prompts=prompts)[0] for k in numbers])
    trained = np.stack([rows[k, 0].float().numpy() for k in numbers])
    return float((unit(trained) * text_rows).sum(1).mean())


def _is_transformers(source: Path) -> bool:
    """Whether the folder is in transformers' format; some on the Hub have both formats."""
    try:
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and str(config.get("model_type")).startswith("clip")


def _transformers_tower(source: Path) -> TextTower:
    source_tokenizer, tower = load_clip(source, local=True)
    tokenizer = _truncating(
        source_tokenizer.backend_tokenizer, length=int(tower.config.max_position_embeddings)
    )
    # the tower ignores tokens after the end of a text, so any token can pad
    tokenizer.enable_padding(pad_id=source_tokenizer.pad_token_id, pad_token=source_tokenizer.pad_token)
    module = _Tower(tower, lambda ids: tower(input_ids=ids).text_embeds)
    return TextTower(module.eval(), tokenizer, "NL", f"{source.resolve().name} (transformers)")


def _open_clip_tower(source: Path) -> TextTower:
    """The tower of a folder in open_clip's format, whose sequence length is fixed."""
    try:
        library: Any = import_module("open_clip")
    except ImportError as error:
        raise MissingExtraError("CLIP's text encoder in open_clip's format", "baselines") from error
    place = f"local-dir:{source}"
    try:
        config = json.loads((source / _OPEN_CLIP).read_text(encoding="utf-8"))["model_cfg"]["text_cfg"]
        model = library.create_model_from_pretrained(place, return_transform=False).eval()
        source_tokenizer = library.get_tokenizer(place)
    except Exception as error:  # the library raises various errors for a folder that it cannot read
        raise ModelError(f"{source}: open_clip cannot load it ({error})") from error
    if not isinstance(source_tokenizer, library.SimpleTokenizer) or config.get("hf_tokenizer_name"):
        raise ModelError(f"{source}: not CLIP's own tokenizer; expected a CLIP model such as ViT-B/16")
    tokenizer = _truncating(_byte_pairs(source_tokenizer), length=source_tokenizer.context_length)
    tokenizer.enable_padding(
        pad_id=0, pad_token=source_tokenizer.decoder[0], length=source_tokenizer.context_length
    )
    return TextTower(
        _Tower(model, model.encode_text).eval(), tokenizer, "N", f"{source.resolve().name} (open_clip)"
    )


def _truncating(tokenizer: Tokenizer, *, length: int) -> Tokenizer:
    """A copy that truncates texts to `length` tokens, including begin and end."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.enable_truncation(length)
    return copy


def _byte_pairs(source_tokenizer: Any) -> Tokenizer:
    """open_clip's tokenizer as one of the library tokenizers, which does not need torch."""
    begin, end = (
        source_tokenizer.decoder[source_tokenizer.sot_token_id],
        source_tokenizer.decoder[source_tokenizer.eot_token_id],
    )
    merges = sorted(source_tokenizer.bpe_ranks, key=source_tokenizer.bpe_ranks.get)
    tokenizer = Tokenizer(models.BPE(source_tokenizer.encoder, merges, end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    split = pre_tokenizers.Split(Regex(_WORDS), "removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        special_tokens=[(begin, source_tokenizer.sot_token_id), (end, source_tokenizer.eot_token_id)],
    )
    return tokenizer
