"""Trains the caption head of the embedded model, on top of its image encoder as it is served.

    python -m anytag.torch.training.captions ROWS MODEL_FOLDER OUT [key=value ...]

Data: the photos of ROWS with captions (Flickr8k, five each; COCO, one each). Hardware: two CPU cores; the
photos are encoded once, then a step costs what the small decoder costs. Every few minutes the whole state is
written to OUT/state.pt, atomically; a run that is killed goes on from there with the same data order. The log
is OUT/log.jsonl, the result OUT/student.pt (averaged weights) and OUT/vocab.txt. Then
`python -m scripts.release_captions ROWS MODEL_FOLDER OUT` puts the head into the model's folder.

Guidance is learned as Tag2Text learns it (section 3.2): the tags that a caption names, found by the parser,
are told to the head that learns to write it; some of them, and for some captions none.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anytag.data.rows import Row
from anytag.models.folder import ModelFolder
from anytag.text_encoders.captions import clean_caption
from anytag.text_encoders.wordpiece import WordPieces
from anytag.torch.nn.configs import CaptionConfig
from anytag.torch.nn.small_caption_head import GuidedHead
from anytag.torch.training.caption_data import CaptionBatch, CaptionCorpus, PhotoTokens, encode_tokens
from anytag.torch.training.recipes import Precision
from anytag.torch.training.report import Progress, Reporter
from anytag.torch.training.train import Trainer
from anytag.torch.training.values import parse_numbers
from anytag.torch.training.wordpieces import kept_wordpieces
from anytag.vocabulary import Vocabulary

SMALL = CaptionConfig(
    words=4000, layers=3, shared=0, heads=4, width=256, mlp=512, positions=40, tag_length=24, prompt=""
)


@dataclass(frozen=True)
class CaptionRecipe:
    """Numbers of one run; those that `anytag.torch.training.train.Recipe` has too mean the same.

    Attributes:
        head: of the caption head; `words` is how many wordpieces are made.
        batch_size: captions a step, over all processes.
        rate: peak learning rate.
        smoothing: of the labels.
        unguided, kept: see `CaptionCorpus`.
    """

    steps: int = 1700
    batch_size: int = 128
    rate: float = 1e-3
    weight_decay: float = 0.02
    warmup: int = 200
    ema: float = 0.998
    seed: int = 0
    smoothing: float = 0.1
    unguided: float = 0.35
    kept: float = 0.7
    precision: Precision = "bf16"
    save_minutes: float = 4.0
    head: CaptionConfig = field(default_factory=lambda: SMALL)


class CaptionStudent(nn.Module):
    """A head, with the loss of a batch as `forward`."""

    def __init__(self, head: GuidedHead, *, smoothing: float) -> None:
        super().__init__()
        self.head, self.smoothing = head, smoothing

    def forward(self, batch: CaptionBatch) -> dict[str, Tensor]:
        """ "loss", smoothed cross-entropy a wordpiece; "plain", the same without smoothing."""
        head = self.head
        memory_kv = head.remember(head.encode_tags(batch.guide, batch.guide, batch.tokens))
        logits, _ = head.decode(batch.text[:, :-1], memory_kv)
        said, wanted = logits.float().flatten(0, 1), batch.text[:, 1:].flatten()
        loss = F.cross_entropy(said, wanted, ignore_index=0, label_smoothing=self.smoothing)
        with torch.no_grad():
            plain = F.cross_entropy(said, wanted, ignore_index=0)
        return {"loss": loss, "plain": plain}


class CaptionTrainer(Trainer):
    """The loop of `anytag.torch.training.train` over captions."""

    def data_key(self) -> str:
        corpus: CaptionCorpus = self.corpus
        return hashlib.sha256(b"".join(text.tobytes() for text in corpus.texts)).hexdigest()

    def groups(self, student: CaptionStudent) -> list[dict[str, Any]]:
        return [{"params": list(student.parameters()), "lr": self.recipe.rate}]

    def batches(self, epoch: int, *, start: int) -> Iterator[CaptionBatch]:
        recipe = self.recipe
        corpus: CaptionCorpus = self.corpus
        return corpus.batches(epoch, batch_size=recipe.batch_size, seed=recipe.seed, start=start)


def make_head(recipe: CaptionRecipe, pieces: WordPieces, tokens: PhotoTokens) -> GuidedHead:
    """The untrained head."""
    torch.manual_seed(recipe.seed)
    count, width = tokens.values[0].shape[1:]
    config = CaptionConfig(**{**asdict(recipe.head), "words": len(pieces)})
    return GuidedHead(config, width, tokens=count)


def training_captions(photos: tuple[Row, ...]) -> list[str]:
    """Every caption that is trained on, cleaned."""
    return [clean_caption(caption) for row in photos if row.split == "train" for caption in row.captions]


class _Stderr(Reporter):
    def progress(self, progress: Progress) -> None:
        left = f"{progress.seconds_left / 60:.0f} min left"
        terms = " ".join(f"{name}={value:.4f}" for name, value in progress.terms.items())
        self.say(f"{progress.what}: {progress.done} of {progress.total} {progress.unit} {terms} {left}")

    def say(self, message: str) -> None:
        sys.stderr.write(f"{message}\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("rows", "model", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("recipe", nargs="*", metavar="key=value")
    args = parser.parse_args()
    recipe = parse_numbers(CaptionRecipe(), args.recipe)
    args.out.mkdir(parents=True, exist_ok=True)
    folder = ModelFolder.open(args.model)
    vocabulary = Vocabulary.read(folder.file("vocabulary.jsonl"))
    tokens = encode_tokens(args.rows, folder, args.out / "tokens", report=_Stderr())
    pieces = kept_wordpieces(
        args.out / "vocab.txt", training_captions(tokens.photos), [tag.name for tag in vocabulary],
        size=recipe.head.words,
    )  # fmt: skip
    corpus = CaptionCorpus(
        tokens, vocabulary, pieces,
        tag_length=recipe.head.tag_length, unguided=recipe.unguided, kept=recipe.kept,
    )  # fmt: skip
    student = CaptionStudent(make_head(recipe, pieces, tokens), smoothing=recipe.smoothing)
    trainer = CaptionTrainer(student, corpus, recipe, args.out, report=_Stderr())
    trainer.resume()
    (args.out / "recipe.json").write_text(json.dumps(asdict(recipe), indent=1))
    trainer.run()


if __name__ == "__main__":
    main()
