"""Golden text cases: prompts, descriptions and cleaned captions are those of the published code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from anytag.data.describe import from_published
from anytag.text_encoders.captions import clean_caption
from anytag.text_encoders.prompts import TEMPLATES, ensemble, template_prompts, unit
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


@pytest.mark.parametrize("name", cases("openset_templates"))
def test_golden_templates(name: str) -> None:
    case, inputs, outputs = read_case(name)
    given, expected = strings(name)
    assert list(TEMPLATES) == given["templates"]
    for tag in given["names"]:
        assert template_prompts(tag) == expected["prompts"][tag]
    vectors = inputs["prompt_embeddings"].reshape(len(given["names"]), len(TEMPLATES), -1)
    assert_close(case, "label_embed", ours=ensemble(vectors), stored=outputs["label_embed"])


@pytest.mark.parametrize("name", cases("llm_descriptions"))
def test_golden_descriptions(name: str) -> None:
    case, inputs, outputs = read_case(name)
    given, expected = strings(name)
    tags = from_published(given["llm_tag_des"])
    assert list(tags) == expected["categories"]
    assert list(tags.values()) == expected["texts"]
    vectors = unit(inputs["description_embeddings"])
    assert_close(case, "label_embed", ours=vectors, stored=outputs["label_embed"])


@pytest.mark.parametrize("name", cases("caption_cleaning"))
def test_golden_caption_cleaning(name: str) -> None:
    given, expected = strings(name)
    for words, cleaned in expected["cleaned"].items():
        assert [clean_caption(text, max_words=int(words)) for text in given["texts"]] == cleaned
