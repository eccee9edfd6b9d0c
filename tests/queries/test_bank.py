"""The trained queries as they are stored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from anytag.errors import ModelError
from anytag.queries.bank import Bank, CoarseClassifier, identity_lines, quantized

TAGS, WIDTH = 9, 16


@pytest.fixture
def bank() -> Bank:
    random = np.random.default_rng(0)
    rows, scale = quantized(random.normal(size=(TAGS, 2, WIDTH)).astype(np.float32))
    coarse = random.normal(size=(TAGS, WIDTH + 1)).astype(np.float32)
    return Bank(rows, scale[..., 0], CoarseClassifier.of(coarse), identity_lines(TAGS))


def read(file: Path) -> Bank:
    return Bank.read(file, tags=TAGS, width=WIDTH)


def test_a_bank_in_integers_has_its_first_pass_in_integers(bank: Bank, tmp_path: Path) -> None:
    bank.write(tmp_path / "q.safetensors")
    stored, found = load_file(tmp_path / "q.safetensors"), read(tmp_path / "q.safetensors")
    assert stored["coarse"].dtype == np.int8
    assert bank.coarse is not None and found.coarse is not None
    step = np.abs(bank.coarse.weights).max(1, keepdims=True) / 127
    difference = np.abs(found.coarse.linear() - bank.coarse.linear())
    assert (difference[:, :-1] <= 0.51 * step).all()
    assert not difference[:, -1].any()
    np.testing.assert_array_equal(found.queries(slice(None)), bank.queries(slice(None)))


def test_writing_again_changes_nothing(bank: Bank, tmp_path: Path) -> None:
    bank.write(tmp_path / "once.safetensors")
    read(tmp_path / "once.safetensors").write(tmp_path / "twice.safetensors")
    once, twice = (load_file(tmp_path / f"{name}.safetensors") for name in ("once", "twice"))
    for name in once:
        np.testing.assert_array_equal(once[name], twice[name])


def test_a_first_pass_in_halves_is_read_too(bank: Bank, tmp_path: Path) -> None:
    assert bank.coarse is not None
    replace(bank, coarse=None).write(tmp_path / "q.safetensors")
    halves = bank.coarse.linear().astype(np.float16)
    save_file({**load_file(tmp_path / "q.safetensors"), "coarse": halves}, tmp_path / "old.safetensors")
    found = read(tmp_path / "old.safetensors").coarse
    assert found is not None
    np.testing.assert_array_equal(found.linear(), halves.astype(np.float32))


def test_a_first_pass_in_floats_is_kept_in_halves(bank: Bank, tmp_path: Path) -> None:
    floats = replace(bank, rows=bank.queries(slice(None)), scale=None)
    floats.write(tmp_path / "q.safetensors")
    assert load_file(tmp_path / "q.safetensors")["coarse"].dtype == np.float16


@pytest.mark.parametrize("name", ["coarse_scale", "coarse_bias"])
def test_integers_without_their_scale_or_bias_are_refused(bank: Bank, tmp_path: Path, name: str) -> None:
    bank.write(tmp_path / "q.safetensors")
    tensors = load_file(tmp_path / "q.safetensors")
    del tensors[name]
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(ModelError, match=rf"expected coarse {TAGS}×{WIDTH + 1}"):
        read(tmp_path / "bad.safetensors")


@pytest.mark.parametrize("is_int8", [False, True])
def test_first_pass_of_a_photo_is_the_same_alone_and_in_a_batch(is_int8: bool) -> None:
    rng = np.random.default_rng(0)
    pooled = rng.normal(size=(9, 512)).astype(np.float32)
    pooled[3] = 0
    linear = rng.normal(size=(700, 513)).astype(np.float32)
    coarse = CoarseClassifier.of(linear)
    coarse = coarse.quantized() if is_int8 else coarse
    logits = coarse.logits(pooled)
    for number in range(len(pooled)):
        np.testing.assert_array_equal(coarse.logits(pooled[number : number + 1])[0], logits[number])
    weights = coarse.linear().astype(np.float64)
    expected = pooled @ weights[:, :-1].T + weights[:, -1]
    # the vectors are rounded to 1/512 of their largest value: of 512 random errors the sum is this small
    np.testing.assert_allclose(logits, expected, atol=0.5 if is_int8 else 1e-4)


def test_whole_vectors_are_exact_at_the_limit() -> None:
    vectors = np.full((1, 512), 3, np.float32)
    coarse = CoarseClassifier(
        np.full((2, 512), -127, np.int8), np.ones(2, np.float32), np.zeros(2, np.float32)
    )
    assert coarse.logits(vectors)[0].tolist() == [-127 * 512 * 3] * 2
