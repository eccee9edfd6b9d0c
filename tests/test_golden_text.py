"""Golden text cases: prompts, descriptions and cleaned captions are those of the published code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from anytag.data.descriptions import from_published
from anytag.text_encoders.captions import clean_caption
from anytag.text_encoders.prompts import TEMPLATES, template_prompts, unit
from anytag.text_encoders.queries import description_queries, template_queries
from tests.golden_cases import FOLDER, assert_close, read_case


def cases(kind: str) -> list[str]:
    """Names of the cases of a kind of the family "text"."""
    found = []
    for path in sorted(FOLDER.glob("*/case.json")):
        case = json.loads(path.read_text(encoding="utf-8"))
        if (case["family"], case["kind"]) == ("text", kind):
            found.append(path.parent.name)
    return found


def strings(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """inputs.json and outputs.json."""
    folder: Path = FOLDER / name
    read = [json.loads((folder / file).read_text("utf-8")) for file in ("inputs.json", "outputs.json")]
    return read[0], read[1]


class Stored:
    """A text encoder that knows these texts and their vectors."""

    def __init__(self, texts: Sequence[str], vectors: npt.NDArray[np.float32]) -> None:
        self.rows = dict(zip(texts, unit(vectors), strict=True))
        self.dim = vectors.shape[1]

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return np.stack([self.rows[text] for text in texts])


@pytest.mark.parametrize("name", cases("openset_templates"))
def test_golden_templates(name: str) -> None:
    case, inputs, outputs = read_case(name)
    given, expected = strings(name)
    assert list(TEMPLATES) == given["templates"]
    for tag in given["names"]:
        assert template_prompts(tag) == expected["prompts"][tag]
    prompts = [prompt for tag in given["names"] for prompt in expected["prompts"][tag]]
    made = template_queries(given["names"], Stored(prompts, inputs["prompt_embeddings"]))
    assert_close(case, "label_embed", ours=made, stored=outputs["label_embed"])


@pytest.mark.parametrize("name", cases("llm_descriptions"))
def test_golden_descriptions(name: str) -> None:
    case, inputs, outputs = read_case(name)
    given, expected = strings(name)
    tags = from_published(given["llm_tag_des"])
    assert list(tags) == expected["categories"]
    assert list(tags.values()) == expected["texts"]
    texts = [text for said in expected["texts"] for text in said]
    encoder = Stored(texts, inputs["description_embeddings"])
    made = description_queries(list(tags), list(tags.values()), encoder)  # as many of each tag
    assert_close(case, "label_embed", ours=made.reshape(-1, encoder.dim), stored=outputs["label_embed"])


@pytest.mark.parametrize("name", cases("caption_cleaning"))
def test_golden_caption_cleaning(name: str) -> None:
    given, expected = strings(name)
    for words, cleaned in expected["cleaned"].items():
        assert [clean_caption(text, max_words=int(words)) for text in given["texts"]] == cleaned
