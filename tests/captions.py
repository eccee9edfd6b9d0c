"""A tiny model folder that writes captions, with random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from anytag.models.card import CaptionSpec, Card
from anytag.models.folder import write_card
from anytag.torch.export.caption_graphs import export_caption_graphs
from tests.caption_heads import tiny_head
from tests.tiny import make_tiny_model

WORDS = (  # noqa: SIM905
    "a man dog dogs puppy cat running run runs beach sand tree red ball on the in of with sea grass "
    "plays sits jumps small big white | ,"
).split()
SPEC = CaptionSpec(prompt="a ", tag_length=7, min_length=4, max_length=12, guide=0.0)


def make_caption_model(folder: Path) -> Path:
    """`tests.tiny`'s model with a guided caption head; 16 tokens of width 8."""
    make_tiny_model(folder)
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    letters = [chr(code) for code in range(97, 123) if chr(code) not in WORDS]
    entries += [*letters, *(f"##{chr(code)}" for code in range(97, 123))]
    (folder / SPEC.wordpieces).write_text("\n".join(entries) + "\n", encoding="utf-8")
    head = tiny_head("guided", words=len(entries) + 2, width=8, tokens=16)
    export_caption_graphs(head, folder, tokens=(16, 8))
    write_card(folder, replace(Card.read(folder), captions=SPEC))
    return folder
