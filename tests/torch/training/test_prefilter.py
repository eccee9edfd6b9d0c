"""`anytag.torch.training.prefilter`: fitting and accuracy of a first pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from anytag import ModelError, Tagger, Vocabulary
from anytag.models.card import Card
from anytag.models.folder import ModelFolder, write_card
from anytag.models.tensors import map_tensors
from anytag.queries.bank import Bank, CoarseClassifier, threshold_log_odds
from anytag.torch.training.prefilter import fit_rows, learn_first_pass, measure_loss
from tests.tiny import make_tiny_model

RANDOM = np.random.default_rng(0)


def test_what_is_linear_is_learned() -> None:
    pooled = RANDOM.normal(size=(60, 5)).astype(np.float32)
    rows = RANDOM.normal(size=(7, 6)).astype(np.float32)
    margins = pooled @ rows[:, :-1].T + rows[:, -1]
    learned = CoarseClassifier.of(fit_rows(pooled, margins))
    guessed = learned.logits(pooled)
    assert np.corrcoef(guessed.ravel(), margins.ravel())[0, 1] > 0.99
    assert measure_loss(learned, pooled, margins, shortlist=7).lost == 0


def test_what_a_shortlist_leaves_out_is_counted() -> None:
    pooled, margins = np.ones((2, 1), np.float32), np.array([[1, 2, 3], [-1, -1, 4]], np.float32)
    best_is_last = CoarseClassifier.of(np.array([[0, 1], [0, 2], [0, 3]], np.float32))
    found = measure_loss(best_is_last, pooled, margins, shortlist=2)
    assert (found.photos, found.predicted, found.lost) == (2, 4, 0.25)


def test_a_folder_learns_and_scores_stay(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "tiny", tags=12)
    pictures = [RANDOM.integers(0, 256, (24, 24, 3), np.uint8) for _ in range(16)]
    exact = Tagger.load(folder).tag(pictures[0], threshold=0)
    found = learn_first_pass(folder, pictures, shortlist=9)
    card = ModelFolder.open(folder).card
    assert (card.shortlist, card.metrics["first_pass"]["lost"]) == (9, found.lost)
    scores = {tag.id: tag.score for tag in exact.tags}
    for tag in Tagger.load(folder).tag(pictures[0]).tags:
        assert tag.score == pytest.approx(scores[tag.id], abs=1e-5)


def test_what_is_given_is_what_the_tagger_gives(tmp_path: Path) -> None:
    """A folder with calibration lines per tag, as of trained families."""
    folder = make_tiny_model(tmp_path / "tiny", tags=12)
    model = ModelFolder.open(folder)
    file = model.file("queries.safetensors")
    tensors = {name: np.array(tensor) for name, tensor in map_tensors(file).items()}
    line = np.stack([np.linspace(0.3, 3, 12), np.linspace(-9, 9, 12)], 1).astype(np.float32)
    save_file({**tensors, "line": line}, file)
    write_card(folder, model.card)
    pictures = [RANDOM.integers(0, 256, (24, 24, 3), np.uint8) for _ in range(16)]
    found = learn_first_pass(folder, pictures, shortlist=12)
    tagger = Tagger.load(folder)  # decodes all tags
    assert 0 < found.predicted == sum(len(tagger.tag(picture).tags) for picture in pictures[::4]) < 48


def test_calibrating_adapts_the_first_pass(tmp_path: Path) -> None:
    """It predicts log-odds minus those of the thresholds, of which both change."""
    folder = make_tiny_model(tmp_path / "tiny", tags=40)
    Vocabulary.read(folder / "vocabulary.jsonl").with_thresholds(0.95).write(folder / "vocabulary.jsonl")
    write_card(folder, Card.read(folder))
    photos = [RANDOM.integers(0, 256, (24, 24, 3), np.uint8) for _ in range(40)]
    learn_first_pass(folder, photos, shortlist=30)
    known, some, old = Card.read(folder).calibration.vocabulary, np.arange(20), np.full(20, 0.95)
    bank = Bank.read(folder / "queries.safetensors", tags=40, width=8)
    tagger = Tagger.load(folder)
    pooled = np.stack([tagger.encode(photo).pooled for photo in photos])
    for slope, offset, threshold in ((0.5, -2.0, 0.1), (1.5, 1.0, 0.4)):  # calibrated twice
        assert bank.coarse is not None
        expected, new = bank.coarse.logits(pooled), np.full(20, threshold)
        odds = slope * (expected[:, :20] + threshold_log_odds(old)) + offset
        expected[:, :20] = odds - threshold_log_odds(new)
        lines = np.tile([slope, offset], (20, 1))
        bank.with_lines(some, lines, known=known, thresholds=new).write(tmp_path / "queries.safetensors")
        bank, old = Bank.read(tmp_path / "queries.safetensors", tags=40, width=8), new
        assert bank.coarse is not None
        np.testing.assert_allclose(bank.coarse.logits(pooled), expected, atol=1e-3)


def test_too_few_photos_are_refused(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "tiny")
    with pytest.raises(ModelError, match="0 photos are too few: a first pass needs at least 8"):
        learn_first_pass(folder, [], shortlist=3)
