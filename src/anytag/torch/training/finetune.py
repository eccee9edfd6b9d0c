"""Plain rows in, a model folder with their tags out: what `anytag finetune` does.

The base's encoder and decoder stay as they are. Each tag of the rows begins as its words (or as the trained
query, where the base knows the tag) and learns a residual and an offset (`residuals`). Scores are calibrated
on unseen photos: each part of them is answered by queries learned from the others.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anytag._typing import Bools, Doubles, Floats, Ints
from anytag.calibration.fit import Goal, fit_tags
from anytag.data.rows import Row, by_photo
from anytag.errors import AnytagError
from anytag.evaluation.metrics import average_precision
from anytag.models.card import Card
from anytag.models.folder import ModelFolder, edited_copy, write_card
from anytag.models.registry import resolve
from anytag.queries.bank import Bank
from anytag.runtime.onnx import OnnxRuntime
from anytag.torch.checkpoints.load import load_decoder
from anytag.torch.training.dataset import conflicts, copies, read_data, split_rows
from anytag.torch.training.judge import judge, worse
from anytag.torch.training.labels import KNOWN, Labels, label_rows
from anytag.torch.training.report import Reporter
from anytag.torch.training.residuals import Learned, Tokens, encode_photos, learn, logits_of_views
from anytag.torch.training.stored import Stored, keep_descriptions, make_bank
from anytag.vocabulary import Vocabulary

MORE_SHORTLIST = 16
"""Places that the first pass gets besides, when new tags join the old."""
FOLDED = 2000
"""Up to so many photos, each is answered by queries learned without it; of more, every tenth is enough."""


@dataclass(frozen=True)
class Finetune:
    """What to do.

    Attributes:
        data: a table of image,tags or a rows.jsonl.
        output: the folder to make.
        model: the base, by name or folder; None is the embedded one.
        epochs: over all views of the photos; enough for 200 steps when None.
        keep_old: keep the base's tags too.
        positives_only: the rows name present tags, and not all of them.
        held_out: part of the rows that only measures, where the rows do not name their split.
        goal: of the thresholds.
    """

    data: Path
    output: Path
    model: str | Path | None = None
    epochs: int | None = None
    keep_old: bool = False
    positives_only: bool = False
    held_out: float = 0.2
    goal: Goal = field(default_factory=Goal)
    seed: int = 0


def finetune(task: Finetune, report: Reporter | None = None) -> Mapping[str, Any]:
    """Learns the tags of the rows, writes a model folder and returns what its card says of it.

    Raises:
        AnytagError: the output exists, the rows cannot be read or name nothing, no photo can be read, or
            photos tell no tag from its absence.
        ModelError: the base is of another family than mini.
    """
    if task.output.exists():
        raise AnytagError(f"{task.output} exists: name a folder that is not there yet")
    report = report or Reporter()
    base = ModelFolder.open(resolve(task.model))
    stored = Stored.read(base)
    rows = by_photo(read_data(task.data))
    labels = label_rows(rows, stored.vocabulary, positives_only=task.positives_only)
    report.say(f"{len(rows)} rows, {len(labels.vocabulary)} tags: {KNOWN[labels.known]}.")
    same = copies(rows, str(task.data.parent))
    _say_what_is_said_twice(rows, same, report)
    paths = [task.data.parent / row.image for row in rows]
    task.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{task.output.name}.", dir=task.output.parent) as work:
        tokens = encode_photos(
            OnnxRuntime(base, device="cpu"), paths, Path(work, "tokens.npy"),
            views=_views(len(rows)), report=report,
        )  # fmt: skip
        for why in tokens.failed.values():
            report.say(f"Left out: {why}")
        taught, held = _parts(task, rows, tokens, same)
        _check_teachable(labels.take(taught), task.data)
        _say_what_is_missing(labels, taught, stored, report)
        with edited_copy(base, task.output) as draft:
            tuner = _Tuner(task, base, stored, labels, tokens, report)
            card = tuner.write(draft, taught)
            figures = judge(
                base.path, draft, [paths[n] for n in held], labels.take(held),
                keep_old=task.keep_old, knows=stored.knows,
            )  # fmt: skip
            if why := worse(figures):
                report.say(why)
            counts = {"tags": len(labels.vocabulary), "learned": tuner.learned, "photos": len(taught)}
            metrics = {"known": KNOWN[labels.known], **counts, "held out": figures}
            write_card(draft, replace(card, metrics={**card.metrics, "fine-tuning": metrics}))
    return metrics


def _parts(
    task: Finetune, rows: Sequence[Row], tokens: Tokens, same: npt.NDArray[np.int64]
) -> tuple[Ints, Ints]:
    """Rows to learn from and rows held out, of those whose photo can be read.

    Raises:
        AnytagError: none can be.
    """
    read = np.unique(tokens.photo)
    parts = split_rows(rows, task.held_out, seed=task.seed, same=same)
    taught, held = (np.intersect1d(part, read) for part in parts)
    if not len(taught):
        raise AnytagError(f"no photo of {task.data} can be read; paths are relative to its folder")
    return taught, held


def _views(photos: int) -> int:
    """Views of a photo: four are 200 kB of disk, and where there are many photos each needs fewer."""
    return 4 if photos <= 5000 else 2 if photos <= 20_000 else 1


def _say_what_is_said_twice(rows: Sequence[Row], same: npt.NDArray[np.int64], report: Reporter) -> None:
    if count := int((same != np.arange(len(rows))).sum()):
        report.say(f"{count} rows are copies of others' photos: none is both learned from and held out.")
    if pairs := conflicts(rows, same):
        names = ", ".join(f"{one} and {other}" for one, other in pairs[:5])
        more = " ..." if len(pairs) > 5 else ""
        report.say(f"One photo, other tags, which of them is right? {names}{more}.")


def _check_teachable(labels: Labels, data: Path) -> None:
    """Whether photos to learn from tell any tag from its absence.

    Raises:
        AnytagError: they do not; says what is missing.
    """
    count, photos = labels.present.sum(0), len(labels.present)
    if photos < 2 or not ((count > 0) & (count < photos)).any():
        raise AnytagError(
            f"{data}: photos to learn from: {photos}, and no tag that some of them have and others have not; "
            "give at least two photos of different tags, or photos without the tag"
        )


def _say_what_is_missing(every: Labels, taught: Ints, stored: Stored, report: Reporter) -> None:
    labels = every.take(taught)
    count = labels.present.sum(0)
    strange = np.array([not stored.knows(tag.name) for tag in labels.vocabulary])
    for few, why in (
        (strange, "names that the model's text table does not know, so photos alone teach them"),
        (count == 0, "no photo to learn from, only their words"),
        (count == len(labels.present), "all photos, so nothing to be told from; add photos without them"),
    ):
        if names := [tag.name for tag, there in zip(labels.vocabulary, few, strict=True) if there]:
            report.say(f"Tags with {why}: {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}.")


def is_better(learned: Floats, asked: Floats, truth: Floats) -> Bools:
    """Which tags tell photos apart better by what was learned than as they were asked before: N×K each -> K.

    By average precision; the photos were not learned from.
    """
    ours, theirs = (average_precision(logits, truth > 0.5) for logits in (learned, asked))
    return np.asarray(ours > theirs)


class _Tuner:
    """Learns the queries of the labels' tags and writes them into a copy of the base."""

    def __init__(
        self,
        task: Finetune,
        base: ModelFolder,
        stored: Stored,
        labels: Labels,
        tokens: Tokens,
        report: Reporter,
    ) -> None:
        self.task, self.card, self.stored = task, base.card, stored
        self.labels, self.tokens, self.report = labels, tokens, report
        self.decoder = load_decoder(base)
        self.words = stored.rows(labels.vocabulary)
        self.learned = 0

    def write(self, draft: Path, taught: Ints) -> Card:
        """Learns from the rows `taught`; writes vocabulary, queries, card."""
        better, lines, thresholds = self._calibrate(taught)
        self.learned = int(better.sum())
        self._say_what_was_kept(better)
        found = self._learn(taught, report=self.report).only(better)
        bank = self._bank(found, lines)
        pairs = zip(self.labels.vocabulary, thresholds, strict=True)
        vocabulary = Vocabulary([replace(tag, threshold=round(float(t), 2)) for tag, t in pairs])
        if self.task.keep_old:
            bank, vocabulary = self.stored.joined(bank, vocabulary)
        vocabulary.write(draft / "vocabulary.jsonl")
        bank.write(draft / "queries.safetensors")
        keep_descriptions(draft / "descriptions.jsonl", vocabulary)
        return write_card(draft, self._card(len(vocabulary), photos=len(taught)))

    def _learn(self, among: Ints, *, report: Reporter | None = None) -> Learned:
        return learn(
            self.decoder, self.tokens, self.words, self.labels,
            among=among, epochs=self.task.epochs, seed=self.task.seed, report=report,
        )  # fmt: skip

    def _calibrate(self, taught: Ints) -> tuple[Bools, Doubles, Doubles]:
        """Which tags are better for what they learn, K; lines K×2 of their logits; thresholds K.

        All by photos that were not learned from: each part is answered by what the others taught.
        """
        views = self.tokens.plain()
        views = views[np.isin(self.tokens.photo[views], taught)]
        photos = self.tokens.photo[views]
        parts = min(4 if len(photos) <= FOLDED else 10, len(photos))
        part = np.random.default_rng(self.task.seed).permutation(len(photos)) % parts
        learned, asked, order = [], [], []
        for number in range(parts if len(photos) <= FOLDED else 1):
            part_photos = np.flatnonzero(part == number)
            found = self._learn(photos[part != number] if parts > 1 else photos)
            learned.append(self._logits(views[part_photos], found))
            asked.append(self._logits(views[part_photos], found.only(np.zeros(len(self.words), np.bool_))))
            order.append(photos[part_photos])
        truth = self.labels.present[np.concatenate(order)]
        ours, theirs = np.concatenate(learned), np.concatenate(asked)
        better = is_better(ours, theirs, truth)
        answers = np.where(better, ours, theirs)
        return better, *fit_tags(answers, truth, self.task.goal, groups=better)

    def _logits(self, views: Ints, tags: Learned) -> Floats:
        return logits_of_views(self.decoder, self.tokens, views, tags.rows(self.words), tags.offset)

    def _say_what_was_kept(self, better: Bools) -> None:
        if names := [tag.name for tag, gain in zip(self.labels.vocabulary, better, strict=True) if not gain]:
            shown = ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")
            self.report.say(f"Tags that learning makes no better, asked as the base asks them: {shown}.")

    def _bank(self, learned: Learned, lines: Doubles) -> Bank:
        """The queries as they are stored; `lines` are of logits that hold the learned offset."""
        bias = lines[:, 1] + lines[:, 0] * learned.offset
        platt_rows = np.stack([lines[:, 0], bias], axis=1).astype(np.float32)
        return make_bank(
            self.decoder, learned.rows(self.words), platt_rows, known=self.card.calibration.vocabulary
        )

    def _card(self, tags: int, *, photos: int) -> Card:
        names = [tag.name for tag in self.labels.vocabulary]
        names_text = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        keep, base = self.task.keep_old, self.card
        origin = (
            f"Of the fine-tuned tags: {self.task.goal} on {photos} photos, by queries learned from others."
        )
        return replace(
            base,
            name=f"{base.name}-tuned",
            description=f"{base.name}, fine-tuned to {names_text}.",
            shortlist=min(tags, base.shortlist + MORE_SHORTLIST) if keep else base.shortlist,
            training_data=f"{base.training_data} Fine-tuned on {photos} photos of {self.task.data.name}.",
            thresholds=f"{origin} Of the others: {base.thresholds}" if keep else origin,
            metrics={"base": dict(base.metrics)},
        )
