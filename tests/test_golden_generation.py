"""Generation against the published implementation's, kind by kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anytag._typing import Ints
from anytag.generation import (
    GenerationConfig,
    beam_search,
    enforce_min_length,
    filter_top_p,
    greedy,
    penalise_repetition,
)
from anytag.runtime.base import Captions
from anytag.runtime.onnx import OnnxCaptions
from anytag.text_encoders.wordpiece import TAG_SEPARATOR, WordPieces
from anytag.torch.captions import TorchCaptions
from anytag.torch.nn.caption_head import CaptionHead
from tests.caption_heads import exported
from tests.golden_cases import Arrays, Case, assert_close, cases
from tests.golden_networks import network_of, rows_of, tensor


@pytest.mark.parametrize("case", cases("generation/logits_processors"), ids=str)
def test_golden_processors(case: Case) -> None:
    ids, scores, config = case.inputs["input_ids"], case.inputs["scores"], case.config
    made = {f"repetition_penalty.{p}": penalise_repetition(p) for p in config["repetition_penalty"]}
    made |= {f"top_p.{p}": filter_top_p(p) for p in config["top_p"]}
    made |= {
        f"min_length.{n}": enforce_min_length(n, end=config["eos_token_id"]) for n in config["min_length"]
    }
    assert set(made) == set(case.outputs)
    for name, process in made.items():
        ours, stored = process(ids, scores), case.outputs[name]
        finite = np.isfinite(stored)
        np.testing.assert_array_equal(np.isfinite(ours), finite)
        assert_close(case.facts, name, ours=ours[finite], stored=stored[finite])


@pytest.mark.parametrize("case", cases("tag2text/generate"), ids=str)
@torch.no_grad()
def test_golden_captions(case: Case, tmp_path: Path) -> None:
    """Photo -> tags -> caption, with the user's tags and with recognised ones, in torch and without it."""
    network, queries = network_of(case)
    tokens, pooled = network.encoder.from_stage(tensor(case.inputs["image"]), 0)
    case.check("image_tokens", tokens)
    logits = network.decoder(tokens, pooled, rows_of(queries))
    case.check("logits", logits)
    chosen = logits.sigmoid() > torch.tensor(case.config["class_threshold"])
    chosen[:, case.config["delete_tag_index"]] = False
    case.check("tag_mask", chosen)
    names = case.given["tag_list"]
    recognised = [[names[k] for k in row.nonzero().flatten().tolist()] for row in chosen]
    head = network.captions
    assert head is not None
    graphs = OnnxCaptions(exported(head, tmp_path / "model", tokens=(tokens.shape[1], tokens.shape[2])))
    assert case.config["runs"]
    for run in case.config["runs"]:
        check_run(case, run, head, graphs, tokens.numpy(), recognised)


def check_run(
    case: Case,
    run: dict[str, Any],
    head: CaptionHead,
    graphs: OnnxCaptions,
    tokens: Any,
    recognised: list[list[str]],
) -> None:
    pieces = WordPieces(case.given["vocab"])
    asked = run["tag_input"]
    tags = recognised if asked is None else [text.split(TAG_SEPARATOR) for text in asked]
    said = case.said["runs"][run["name"]]
    assert [TAG_SEPARATOR.join(row) for row in tags] == said["tags"]
    ids, mask = pieces.tag_text(tags)
    prompts = np.array([pieces.prompt(case.config["prompt"])] * len(tokens))
    prefix = f"{run['name']}."
    stored = {k.removeprefix(prefix): v for k, v in case.outputs.items() if k.startswith(prefix)}
    np.testing.assert_array_equal(ids, stored["tag_input_ids"])
    np.testing.assert_array_equal(mask, stored["tag_attention_mask"])
    np.testing.assert_array_equal(prompts, stored["prompt_ids"])
    case.check(f"{run['name']}.tag_encoder_out", head.encode_tags(tensor(ids), tensor(mask), tensor(tokens)))
    for captions in (TorchCaptions(head), graphs):
        found = written(captions, (ids, mask, tokens), prompts, run, end=pieces.end)
        check_texts(case, pieces, found, stored, said["captions"])
        for photo in range(len(tokens)):  # one photo alone is written about as in a batch
            part = slice(photo, photo + 1)
            (alone,) = written(
                captions, (ids[part], mask[part], tokens[part]), prompts[part], run, end=pieces.end
            )
            assert pieces.decode(alone) == pieces.decode(found[photo])


def check_texts(case: Case, pieces: WordPieces, found: Ints, stored: Arrays, captions: list[str]) -> None:
    np.testing.assert_array_equal(found, stored["sequences"])
    texts = [pieces.decode(row)[len(case.config["prompt"]) :] for row in found.tolist()]
    assert texts == captions


def written(captions: Captions, seen: Any, prompts: Ints, run: dict[str, Any], *, end: int) -> Ints:
    limits = GenerationConfig(
        end=end, max_length=run["max_length"], min_length=run["min_length"],
        repetition_penalty=run["repetition_penalty"],
    )  # fmt: skip
    writer = captions.decoder(*seen)
    if run["num_beams"] == 1:
        return greedy(writer, prompts, limits)
    return beam_search(writer, prompts, limits, beams=run["num_beams"])
