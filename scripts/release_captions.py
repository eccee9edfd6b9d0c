"""Add a trained caption head to a model's folder, with search settings tuned on dev photos.

    python -m scripts.release_captions ROWS MODEL_FOLDER RUN [key=value ...]

RUN is the output of `anytag train mini-captions` for the same folder. Matrices are stored in int8; all
figures are measured with the final graphs. The card gets the caption settings and the scores on the dev
photos.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from anytag.captioner import Captioner
from anytag.data.rows import Row, read_rows, select
from anytag.errors import AnytagError, ModelError
from anytag.evaluation.captions import caption_metrics
from anytag.models.card import CaptionSpec
from anytag.models.folder import ModelFolder, write_card
from anytag.parsing import Parser
from anytag.runtime.onnx import CAPTION, MEMORY
from anytag.tagger import Encoded
from anytag.torch.export.caption_graphs import export_caption_graphs, fake_quantize
from anytag.torch.export.dynamic_int8 import quantize_weights
from anytag.torch.nn.small_caption_head import GuidedHead
from anytag.torch.training.recipes import read_recipe
from anytag.torch.training.values import parse_numbers

NO_GUIDANCE = 2.0  # a value of `guide` above all scores
Kind = tuple[CaptionSpec, Sequence[Sequence[str]] | None]
"""Settings, and the tags that guide each photo's caption."""


@dataclass(frozen=True)
class Search:
    """Values to try on dev photos, each as "a,b,c"; the search starts with the first of each.

    Attributes:
        support, sure: not tried: support costs BLEU, and is for photos unlike those of the captions.
        photos: number of photos.
        batch: photos that are captioned together.
    """

    beams: str = "3"
    length_penalty: str = "1.0,0.7,1.3"
    min_length: str = "5"
    guide: str = "2.0,0.9,0.75,0.6"
    support: float = 0.04
    sure: float = 0.6
    max_length: int = 30
    photos: int = 500
    batch: int = 25


def read_head(run: Path) -> tuple[GuidedHead, tuple[int, int]]:
    """Load the trained caption head of a run with averaged weights, and T×D of its image tokens.

    Raises:
        ModelError: the folder does not contain a finished run.
    """
    try:
        config = read_recipe(run / "recipe.json").network.captions
        state = torch.load(run / "student.pt", weights_only=True)
    except (OSError, AnytagError) as error:
        raise ModelError(f"{run}: no finished run of anytag train mini-captions ({error})") from error
    weights = {name.removeprefix("network.captions."): tensor for name, tensor in state.items()}
    tokens, width = len(weights["places"]), weights["proj.weight"].shape[1]
    assert config is not None  # guaranteed by the recipe
    head = GuidedHead(replace(config, words=len(weights["bias"])), width, tokens=tokens)
    head.load_state_dict(weights)
    return head.eval().requires_grad_(False), (tokens, width)


def write_head(run: Path, out: Path) -> None:
    """Write the graphs, the wordpieces and a first card to the model's folder."""
    card = ModelFolder.open(out, verify=False).card  # unverified: the folder may contain another caption head
    head, tokens = read_head(run)
    fake_quantize(head)
    export_caption_graphs(head, out, tokens=tokens)
    for name in (MEMORY, CAPTION):
        quantize_weights(out / name)
    spec = CaptionSpec(prompt="", tag_length=head.config.tag_length, guide=NO_GUIDANCE)
    shutil.copyfile(run / "vocab.txt", out / spec.wordpieces)
    write_card(out, replace(card, captions=spec))


class CaptionEvaluator:
    """Writes and scores captions of photos with reference captions.

    Args:
        captioner: the model.
        rows: the photos, in the folder `root`.
        batch: photos that are captioned together.
    """

    def __init__(self, captioner: Captioner, rows: Sequence[Row], root: Path, *, batch: int = 25) -> None:
        self.captioner, self.rows, self.batch = captioner, rows, batch
        self.encoded: list[Encoded] = list(captioner.tagger.encode_many([root / row.image for row in rows]))
        self.parser = Parser(vocabulary=captioner.tagger.vocabulary)

    def texts(self, spec: CaptionSpec, tags: Sequence[Sequence[str]] | None = None) -> list[str]:
        """Captions of all photos, guided by `tags`, by default as `spec` defines."""
        captioner = self.captioner
        captioner.spec = spec
        texts = []
        for start in range(0, len(self.rows), self.batch):
            some = self.encoded[start : start + self.batch]
            if tags is None:
                texts += [caption.text for caption in captioner.write(some)]
            else:
                requested_tags = zip(some, tags[start : start + self.batch], strict=True)
                texts += [captioner.write([one], names)[0].text for one, names in requested_tags]
        return texts

    def score(self, texts: Sequence[str]) -> dict[str, float]:
        """BLEU, CIDEr and METEOR, rounded to two digits."""
        found = caption_metrics(texts, [row.captions for row in self.rows])
        return {name: round(value, 2) for name, value in found.items()}

    def figures(self, texts: Sequence[str], tags: Sequence[Sequence[str]] | None) -> dict[str, float]:
        """The scores of captions and, if `tags` guided them, the share of the tags that they mention."""
        mentioned = {"asked_tags_said": self.mentioned_share(texts, tags)} if tags else {}
        return {**self.score(texts), **mentioned}

    def requested_tags(self, count: int = 3) -> list[list[str]]:
        """At most `count` tags of one reference caption per photo, as a user might request."""
        return [[tag.name for tag in self.parser.parse(row.captions[0])][:count] for row in self.rows]

    def mentioned_share(self, texts: Sequence[str], tags: Sequence[Sequence[str]]) -> float:
        """Share of requested tags that the captions mention."""
        mentioned = [{tag.name for tag in self.parser.parse(text)} for text in texts]
        hits = [name in names for names, requested in zip(mentioned, tags, strict=True) for name in requested]
        return round(sum(hits) / max(1, len(hits)), 4)


def tune(evaluator: CaptionEvaluator, spec: CaptionSpec, search: Search) -> CaptionSpec:
    """Maximise BLEU-4 over one setting after the other."""
    best, figure = replace(spec, max_length=search.max_length, **_first(search)), -1.0
    for name in ("guide", "length_penalty", "beams", "min_length"):
        kind = type(getattr(spec, name))
        for text in str(getattr(search, name)).split(","):
            tried = replace(best, **{name: kind(text)})
            if figure >= 0 and tried == best:
                continue
            score = evaluator.score(evaluator.texts(tried))
            sys.stderr.write(f"{name}={text}: {score}\n")
            if score["BLEU-4"] > figure:
                best, figure = tried, score["BLEU-4"]
    return best


def _first(search: Search) -> dict[str, Any]:
    return {
        "beams": int(search.beams.split(",")[0]),
        "length_penalty": float(search.length_penalty.split(",")[0]),
        "min_length": int(search.min_length.split(",")[0]),
        "guide": float(search.guide.split(",")[0]),
    }


def kinds(evaluator: CaptionEvaluator, spec: CaptionSpec) -> dict[str, Kind]:
    """Settings and guiding tags: without guidance, as `spec` defines, and with requested tags."""
    return {
        "unguided": (replace(spec, guide=NO_GUIDANCE, support=0.0), None),
        "default": (spec, None),
        "asked": (spec, evaluator.requested_tags()),
    }


def measure(evaluator: CaptionEvaluator, spec: CaptionSpec) -> dict[str, Any]:
    """The figures of all kinds of captions, as cards have them."""
    found = {
        name: evaluator.figures(evaluator.texts(settings, tags), tags)
        for name, (settings, tags) in kinds(evaluator, spec).items()
    }
    return {"photos": len(evaluator.rows), **found}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("rows", "model", "run"):
        parser.add_argument(name, type=Path)
    parser.add_argument("search", nargs="*", metavar="key=value")
    args = parser.parse_args()
    search = parse_numbers(Search(), args.search)
    write_head(args.run, args.model)
    rows = list(select(read_rows(args.rows), split="dev"))[: search.photos]
    captioner = Captioner.load(args.model, device="cpu")
    evaluator = CaptionEvaluator(captioner, rows, args.rows.parent, batch=search.batch)
    spec = replace(tune(evaluator, captioner.spec, search), support=search.support, sure=search.sure)
    figures = measure(evaluator, spec)
    card = ModelFolder.open(args.model, verify=False).card
    metrics = {**card.metrics, "captions_flickr8k_dev": figures}
    write_card(args.model, replace(card, captions=spec, metrics=metrics))
    sys.stderr.write(json.dumps({"spec": str(spec), **figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
