"""Fine-tune a small model to the tags of rows (`anytag finetune`).

The base's encoder and decoder are frozen. The query of each tag starts as that of its name (or as the trained
query, if the base has the tag); a residual and an offset are learned for it (see `residuals`). Scores are
calibrated by cross-validation: each fold is scored with queries learned from the others.
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
from anytag.data.io import local_paths
from anytag.data.rows import Row, by_photo
from anytag.errors import AnytagError
from anytag.evaluation.metrics import average_precision
from anytag.models.card import Card
from anytag.models.folder import ModelFolder, edited_copy, write_card
from anytag.models.registry import resolve
from anytag.queries.bank import Bank
from anytag.runtime.onnx import OnnxRuntime
from anytag.torch.checkpoints.load import load_decoder
from anytag.torch.training.comparison import compare_models, regression_warning
from anytag.torch.training.dataset import conflicts, find_copies, read_data, split_rows
from anytag.torch.training.labels import KIND_DESCRIPTIONS, Labels, label_rows
from anytag.torch.training.model_folder import SHORTLIST
from anytag.torch.training.report import Reporter
from anytag.torch.training.residuals import LearnedTags, Tokens, encode_photos, learn, logits_of_views
from anytag.torch.training.stored_tags import StoredTags, keep_descriptions, make_bank
from anytag.vocabulary import Vocabulary

EXTRA_SHORTLIST = 16
"""Additional length of the shortlist if new tags are added to the old ones, which may push them out."""
MAX_CROSS_VALIDATED = 2000
"""Up to this number of photos all folds are used for calibration; of more photos, one of ten folds."""


@dataclass(frozen=True)
class Finetune:
    """Options of a fine-tuning.

    Attributes:
        data: a table of image,tags or a rows.jsonl.
        output: the folder to create.
        model: the base, by name or folder; None: the embedded model.
        epochs: epochs over all views of the photos; None: enough for 200 steps.
        keep_old: keep the base's tags too.
        positives_only: the rows name present tags, but not all of them.
        held_out: fraction of rows that is held out, if rows have no split.
        goal: goal of the thresholds.
        seed: random seed.
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
    """Learn the tags of the rows, write a model folder, and return the metrics in its card.

    Raises:
        AnytagError: the output exists, the rows cannot be read or have no tags, no photo can be read, or no
            tag has both photos with it and photos without it.
        ModelError: the base is of another family than mini.
    """
    if task.output.exists():
        raise AnytagError(f"{task.output} exists: give a folder that does not exist yet")
    report = report or Reporter()
    base = ModelFolder.open(resolve(task.model))
    stored = StoredTags.read(base)
    rows = by_photo(read_data(task.data))
    labels = label_rows(rows, stored.vocabulary, positives_only=task.positives_only)
    report.say(f"{len(rows)} rows, {len(labels.vocabulary)} tags: {KIND_DESCRIPTIONS[labels.kind]}.")
    same = find_copies(rows, str(task.data.parent))
    _report_duplicates(rows, same, report)
    paths = local_paths(task.data.parent, (row.image for row in rows))
    task.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{task.output.name}.", dir=task.output.parent) as work:
        tokens = encode_photos(
            OnnxRuntime(base, device="cpu"), paths, Path(work, "tokens.npy"),
            views=_views(len(rows)), report=report,
        )  # fmt: skip
        for why in tokens.failed.values():
            report.skip(why)
        train, held = _parts(task, rows, tokens, same)
        _check_labels(labels.take(train), task.data)
        _report_weak_tags(labels, train, stored, report)
        with edited_copy(base, task.output) as draft:
            tuner = _Tuner(task, base, stored, labels, tokens, report)
            card = tuner.write(draft, train)
            figures = compare_models(
                base.path, draft, [paths[n] for n in held], labels.take(held),
                keep_old=task.keep_old, knows=stored.knows,
            )  # fmt: skip
            if why := regression_warning(figures):
                report.say(why)
            counts = {"tags": len(labels.vocabulary), "learned": tuner.learned, "photos": len(train)}
            metrics = {"known": KIND_DESCRIPTIONS[labels.kind], **counts, "held out": figures}
            write_card(draft, replace(card, metrics={**card.metrics, "fine-tuning": metrics}))
    return metrics


def _parts(
    task: Finetune, rows: Sequence[Row], tokens: Tokens, same: npt.NDArray[np.int64]
) -> tuple[Ints, Ints]:
    """Training rows and held-out rows, among those whose photo can be read.

    Raises:
        AnytagError: no photo can be read.
    """
    readable = np.unique(tokens.photo)
    parts = split_rows(rows, task.held_out, seed=task.seed, same=same)
    train, held = (np.intersect1d(part, readable) for part in parts)
    if not len(train):
        raise AnytagError(f"no photo of {task.data} can be read; paths are relative to its folder")
    return train, held


def _views(photos: int) -> int:
    """Number of views per photo: four take 200 kB of disk, and many photos need fewer."""
    return 4 if photos <= 5000 else 2 if photos <= 20_000 else 1


def _report_duplicates(rows: Sequence[Row], same: npt.NDArray[np.int64], report: Reporter) -> None:
    if count := int((same != np.arange(len(rows))).sum()):
        report.say(f"{count} rows repeat a photo of another row; copies are never split between both parts.")
    if pairs := conflicts(rows, same):
        names = ", ".join(f"{one} and {other}" for one, other in pairs[:5])
        more = " ..." if len(pairs) > 5 else ""
        report.say(f"The same photo has different tags; check which are right: {names}{more}.")


def _check_labels(labels: Labels, data: Path) -> None:
    """Check that some tag has both training photos with it and photos without it.

    Raises:
        AnytagError: there is none.
    """
    count, photos = labels.present.sum(0), len(labels.present)
    if photos < 2 or not ((count > 0) & (count < photos)).any():
        raise AnytagError(
            f"{data}: no tag is present in some of the {photos} training photos and absent from others; give "
            "at least two photos with different tags, or photos without the tag"
        )


def _report_weak_tags(labels: Labels, train: Ints, stored: StoredTags, report: Reporter) -> None:
    train_labels = labels.take(train)
    count = train_labels.present.sum(0)
    unknown = np.array([not stored.knows(tag.name) for tag in labels.vocabulary])
    for mask, why in (
        (unknown, "names that the model's text encoder does not know, learned from photos only"),
        (count == 0, "no training photo, which use only their names"),
        (count == len(train_labels.present), "all photos, which need photos without them to be learned"),
    ):
        if names := [tag.name for tag, found in zip(labels.vocabulary, mask, strict=True) if found]:
            report.say(f"Tags with {why}: {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}.")


def is_better(learned: Floats, initial: Floats, truth: Floats) -> Bools:
    """Which tags have a higher average precision with learned than with initial logits: N×K each -> K."""
    after, before = (average_precision(logits, truth > 0.5) for logits in (learned, initial))
    return np.asarray(after > before)


class _Tuner:
    """Learns the queries of the tags and writes them into a copy of the base."""

    def __init__(
        self,
        task: Finetune,
        base: ModelFolder,
        stored: StoredTags,
        labels: Labels,
        tokens: Tokens,
        report: Reporter,
    ) -> None:
        self.task, self.card, self.stored = task, base.card, stored
        self.labels, self.tokens, self.report = labels, tokens, report
        self.decoder = load_decoder(base)
        self.words = stored.rows(labels.vocabulary)
        self.learned = 0

    def write(self, draft: Path, train: Ints) -> Card:
        """Learn from the training rows; write vocabulary, queries and card."""
        better, lines, thresholds = self._calibrate(train)
        self.learned = int(better.sum())
        self._report_unimproved(better)
        tags = self._learn(train, report=self.report).only(better)
        bank = self._bank(tags, lines)
        pairs = zip(self.labels.vocabulary, thresholds, strict=True)
        vocabulary = Vocabulary([replace(tag, threshold=round(float(t), 2)) for tag, t in pairs])
        if self.task.keep_old:
            bank, vocabulary = self.stored.joined(bank, vocabulary)
        vocabulary.write(draft / "vocabulary.jsonl")
        bank.write(draft / "queries.safetensors")
        keep_descriptions(draft / "descriptions.jsonl", vocabulary)
        return write_card(draft, self._card(len(vocabulary), photos=len(train)))

    def _learn(self, train_rows: Ints, *, report: Reporter | None = None) -> LearnedTags:
        return learn(
            self.decoder, self.tokens, self.words, self.labels,
            train_rows=train_rows, epochs=self.task.epochs, seed=self.task.seed, report=report,
        )  # fmt: skip

    def _calibrate(self, train: Ints) -> tuple[Bools, Doubles, Doubles]:
        """Which tags improve by learning, K; slopes and biases of their logits, K×2; thresholds, K.

        By cross-validation: each fold is scored with queries learned from the others.
        """
        views = self.tokens.plain()
        views = views[np.isin(self.tokens.photo[views], train)]
        photos = self.tokens.photo[views]
        folds = min(4 if len(photos) <= MAX_CROSS_VALIDATED else 10, len(photos))
        fold = np.random.default_rng(self.task.seed).permutation(len(photos)) % folds
        learned, initial, order = [], [], []
        for number in range(folds if len(photos) <= MAX_CROSS_VALIDATED else 1):
            fold_photos = np.flatnonzero(fold == number)
            tags = self._learn(photos[fold != number] if folds > 1 else photos)
            learned.append(self._logits(views[fold_photos], tags))
            initial.append(self._logits(views[fold_photos], tags.only(np.zeros(len(self.words), np.bool_))))
            order.append(photos[fold_photos])
        labels = self.labels.take(np.concatenate(order))
        after, before = np.concatenate(learned), np.concatenate(initial)
        better = is_better(after, before, labels.present)
        logits = np.where(better, after, before)
        fitted = fit_tags(logits, labels.present, self.task.goal, groups=better, weight=labels.weight)
        return better, *fitted

    def _logits(self, views: Ints, tags: LearnedTags) -> Floats:
        return logits_of_views(self.decoder, self.tokens, views, tags.rows(self.words), tags.offset)

    def _report_unimproved(self, better: Bools) -> None:
        if names := [tag.name for tag, gain in zip(self.labels.vocabulary, better, strict=True) if not gain]:
            shown = ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")
            self.report.say(f"Tags that learning does not improve, which keep the base's queries: {shown}.")

    def _bank(self, learned: LearnedTags, lines: Doubles) -> Bank:
        """The stored queries; `lines` apply to logits that include the learned offset."""
        bias = lines[:, 1] + lines[:, 0] * learned.offset
        platt_rows = np.stack([lines[:, 0], bias], axis=1).astype(np.float32)
        return make_bank(
            self.decoder, learned.rows(self.words), platt_rows, known=self.card.calibration.vocabulary
        )

    def _card(self, tags: int, *, photos: int) -> Card:
        names = [tag.name for tag in self.labels.vocabulary]
        names_text = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        keep, base = self.task.keep_old, self.card
        shortlist = max(base.shortlist, SHORTLIST)  # a first pass learned from few photos is less exact
        origin = f"Fine-tuned tags: {self.task.goal} on {photos} photos, cross-validated."
        return replace(
            base,
            name=f"{base.name}-tuned",
            description=f"{base.name}, fine-tuned to {names_text}.",
            shortlist=min(tags, shortlist + EXTRA_SHORTLIST) if keep else shortlist,
            training_data=f"{base.training_data} Fine-tuned on {photos} photos of {self.task.data.name}.",
            thresholds=f"{origin} Other tags: {base.thresholds}" if keep else origin,
            fewest=base.fewest if keep else None,
            metrics={"base": dict(base.metrics)},
        )
