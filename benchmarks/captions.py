"""Captions of the embedded model on Flickr8k's 1,000 test photos, with five reference sentences each.

    PYTHONPATH=. python benchmarks/captions.py ROWS [MODEL_FOLDER] [--photos 1000] [--card]

Three rows: without guiding tags, with the model's default settings, and guided by up to three tags that one
reference sentence mentions, with the share of them that the captions mention too. (The guided row is
optimistic: its tags come from one of the references.) BLEU and CIDEr are those of COCO's evaluation code.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from anytag.captioner import Captioner
from anytag.data.rows import read_rows, select
from anytag.models.folder import write_card
from anytag.models.registry import resolve
from scripts.release_captions import CaptionEvaluator, kinds

GUIDES = {
    "unguided": "no tags",
    "default": "the card's settings",
    "asked": "up to three tags of one reference",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=Path)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--card", action="store_true", help="write the figures into the model's card")
    args = parser.parse_args()
    captioner = Captioner.load(args.model, device="cpu")
    rows = [row for row in select(read_rows(args.rows), split="test") if row.captions][: args.photos]
    evaluator, spec = CaptionEvaluator(captioner, rows, args.rows.parent), captioner.spec
    print("| guided by | BLEU-1 | BLEU-4 | CIDEr | METEOR | requested tags mentioned | ms per photo |")
    print("|---|---|---|---|---|---|---|")
    metrics: dict[str, Any] = {"photos": len(rows)}
    for kind, (numbers, tags) in kinds(evaluator, spec).items():
        start = time.perf_counter()
        texts = evaluator.texts(numbers, tags)
        speed = 1000 * (time.perf_counter() - start) / len(rows)
        metrics[kind] = found = evaluator.figures(texts, tags)
        figures = [found[key] for key in ("BLEU-1", "BLEU-4", "CIDEr", "METEOR")]
        mentioned = f"{found['asked_tags_said']:.1%}" if tags else ""
        shown = " | ".join(f"{one:.1f}" for one in figures)
        print(f"| {GUIDES[kind]} | {shown} | {mentioned} | {speed:.0f} |")
    if args.card:
        card = captioner.tagger.card
        write_card(
            resolve(args.model), replace(card, metrics={**card.metrics, "captions_flickr8k_test": metrics})
        )


if __name__ == "__main__":
    main()
