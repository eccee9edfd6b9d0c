"""Files of a run: state, result, log, folder."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from anytag.errors import AnytagError
from anytag.torch.checkpoints.read import check_sums
from anytag.torch.training.checkpoint import (
    EMA,
    append_to_log,
    read_log,
    read_state,
    write_state,
    write_tensors,
)
from anytag.torch.training.fit import train
from anytag.torch.training.launch import check_launch, locked_run_folder
from anytag.torch.training.run import Run
from anytag.vocabulary import Vocabulary
from tests.runs import RUN_OPTIONS, Kept, recipe_of, small_recipe, trainer_of, weights


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Simulates a full disk with a limit on file sizes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


STATE = {
    "step": 1,
    "student": {"w": torch.arange(5000.0)},
    "optimizer": {},
    "average": {},
    "average_steps": 1,
}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-900])


def flip(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 4
    path.write_bytes(whole)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other(path: Path) -> None:
    torch.save({"step": 3}, path)


def run_code(path: Path) -> None:
    torch.save({"step": os.getcwd, "w": torch.zeros(3)}, path)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (cut, "damaged"),
        (flip, "checksum"),
        (empty, "damaged"),
        (other, "it lacks average, average_steps, optimizer, student"),
        (run_code, "it holds more than tensors and numbers"),
    ],
)
def test_a_damaged_state_says_how_to_go_on(damage: Callable[[Path], None], why: str, tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    write_state(path, STATE)
    write_state(path, {**STATE, "step": 2})
    damage(path)
    with pytest.raises(AnytagError) as caught:
        read_state(path)
    before = tmp_path / "state.previous.pt"
    assert str(path) in str(caught.value) and why in str(caught.value)
    assert f"resume from the previous state: mv {before} {path}" in str(caught.value)
    assert "weights_only" not in str(caught.value)
    before.replace(path)
    assert read_state(path)["step"] == 1


def test_a_full_disk_is_said_in_words(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    write_state(path, STATE)
    with files_up_to(9000), pytest.raises(AnytagError, match=r"state.pt cannot be written: File too large"):
        write_state(path, {**STATE, "step": 2})
    assert read_state(path)["step"] == 1
    assert {file.name for file in tmp_path.iterdir()} == {"state.pt", "state.previous.pt"}
    write_tensors(path, {})
    check_sums(path)


def test_a_full_disk_at_the_end_costs_the_state_only(data: Path, tmp_path: Path) -> None:
    trainer = trainer_of(recipe_of("ram-plus", steps=1), data, tmp_path)
    size = sum(tensor.nbytes for tensor in trainer.plain.state_dict().values())
    kept = trainer.report = Kept()
    with files_up_to(2 * size):
        trainer.fit()
    assert weights(tmp_path)
    assert not (tmp_path / "state.pt").exists()
    assert "state.pt cannot be written" in kept.said[-1] and "the result is written" in kept.said[-1]


def test_a_log_line_that_a_full_disk_cut_is_left_out(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    append_to_log(path, {"step": 1, "loss": 0.5})
    with files_up_to(40), pytest.raises(OSError, match="File too large"):
        append_to_log(path, {"step": 2, "loss": 0.25})
    append_to_log(path, {"step": 3, "loss": 0.125})
    assert [line["step"] for line in read_log(path)] == [1, 3]
    recipe = recipe_of("ram-plus", steps=3)
    trainer = trainer_of(recipe, data, tmp_path)
    trainer.step = 2
    trainer.save()
    resumed = trainer_of(recipe, data, tmp_path)
    resumed.resume()
    resumed.fit()
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert sorted({line["step"] for line in lines}) == [1, 3] and lines[1]["loss"] != 0.125


def test_a_run_that_was_killed_before_its_first_state_begins_its_log_again(
    data: Path, tmp_path: Path
) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n', encoding="utf-8")
    trainer_of(recipe_of("ram-plus", steps=1), data, tmp_path).fit()
    assert {line["of"] for line in read_log(tmp_path / "log.jsonl") if "loss" in line} == {1}
    assert [line["step"] for line in read_log(tmp_path / "log.jsonl")] == [1, 1]  # the second has the mAP


def test_other_data_or_tags_are_refused(data: Path, tmp_path: Path) -> None:
    out, recipe = tmp_path / "out", recipe_of("ram-plus", steps=1)
    train(Run(recipe, data, out, RUN_OPTIONS))
    rows = data.read_text(encoding="utf-8").splitlines(keepends=True)
    fewer = data.with_name("fewer.jsonl")
    fewer.write_text("".join(rows[1:]), encoding="utf-8")
    with pytest.raises(AnytagError, match=r"other data: rows or vocabulary .*--output"):
        train(Run(replace(recipe, steps=2), fewer, out, RUN_OPTIONS))
    same = data.with_name("same.jsonl")
    same.write_text("".join(rows), encoding="utf-8")
    train(Run(replace(recipe, steps=2), same, out, RUN_OPTIONS))


def test_other_tags_are_refused(data: Path, tmp_path: Path) -> None:
    train(Run(recipe_of("ram-plus", steps=1), data, tmp_path / "first", RUN_OPTIONS))
    tags = (tmp_path / "first" / "vocabulary.jsonl").read_text(encoding="utf-8")
    file, out = tmp_path / "tags.jsonl", tmp_path / "out"
    file.write_text(tags, encoding="utf-8")
    recipe = recipe_of("ram-plus", steps=1, vocabulary=str(file))
    train(Run(recipe, data, out, RUN_OPTIONS))
    file.write_text("".join(tags.splitlines(keepends=True)[::-1]), encoding="utf-8")
    with pytest.raises(AnytagError, match="other data"):
        train(Run(replace(recipe, steps=3), data, out, RUN_OPTIONS))
    assert (out / "vocabulary.jsonl").read_text(encoding="utf-8") == tags


@pytest.mark.parametrize("changed", ["vocabulary", "descriptions", "embedding", "wordpieces"])
def test_other_texts_of_the_same_tags_are_refused(changed: str, data: Path, tmp_path: Path) -> None:
    """Other labels, text vectors or wordpieces, with the same ids, numbers and paths."""
    recipe = recipe_of("tag2text" if changed == "wordpieces" else "ram-plus", steps=1)
    out, file = tmp_path / "out", tmp_path / changed
    trainer_of(recipe, data, out)  # writes vocabulary.jsonl and vocab.txt
    tags = Vocabulary.read(out / "vocabulary.jsonl")
    for again in (False, True):
        if changed == "vocabulary":
            named = [replace(tag, name=f"{tag.name} wall") if again else tag for tag in tags]
            Vocabulary(named).write(file)
        elif changed == "descriptions":
            texts = {tag.id: [f"a {'dark' if again else 'plain'} {tag.name}"] for tag in tags}
            lines = [json.dumps({"id": id, "descriptions": words}) for id, words in texts.items()]
            file.write_text("\n".join(lines), encoding="utf-8")
        elif changed == "embedding":
            torch.save(torch.full((len(tags), 16), 1.0 + again), file)
        else:
            *entries, one, other = (out / "vocab.txt").read_text(encoding="utf-8").split()
            entries += [other, one] if again else [one, other]
            file.write_text("\n".join(entries), encoding="utf-8")
        trainer = trainer_of(replace(recipe, **{changed: str(file)}), data, out)  # type: ignore[arg-type]
        if not again:
            trainer.save()
            trainer.resume()
    with pytest.raises(AnytagError, match=f"other data: contents of {changed}= have changed since"):
        trainer.resume()
    state = read_state(out / "state.pt")
    del state["sources"]  # as in older versions
    write_state(out / "state.pt", state)
    trainer.resume()


def test_texts_that_an_unfinished_run_left_are_made_again(data: Path, tmp_path: Path) -> None:
    out, files, recipe = tmp_path / "out", ("vocabulary.jsonl", "vocab.txt"), recipe_of("tag2text", steps=1)
    out.mkdir()
    for file in files:
        (out / file).write_text("of other rows", encoding="utf-8")
    train(Run(recipe, data, out, RUN_OPTIONS))
    train(Run(recipe, data, tmp_path / "other", RUN_OPTIONS))
    for file in files:
        assert (out / file).read_bytes() == (tmp_path / "other" / file).read_bytes()


def test_fp16_goes_on_after_an_overflow(data: Path, tmp_path: Path) -> None:
    trainer = trainer_of(recipe_of("ram-plus", steps=4), data, tmp_path)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    trainer.optimizer = AcceleratedOptimizer(trainer.optimizer.optimizer, scaler=scaler)
    trainer.accelerator.scaler, trainer.accelerator._optimizers = scaler, [trainer.optimizer]
    trainer.accelerator.state._mixed_precision = "fp16"
    trainer.accelerator.native_amp = True
    trainer.plain.scale = scaler.get_scale
    kept = trainer.report = Kept()
    before = {name: tensor.clone() for name, tensor in trainer.plain.state_dict().items()}
    try:
        for batch in trainer.dataset.stream(trainer.step, trainer.total):
            trainer._step(batch)
            if trainer.step == 3:
                scaler.update(1024.0)
    finally:
        trainer.accelerator.state._mixed_precision = "no"
    assert [line.partition(" is skipped: ")[0] for line in kept.said] == ["Step 0", "Step 1", "Step 2"]
    assert "overflows in fp16; the gradient scale is now" in kept.said[0]
    moved = [n for n, t in trainer.plain.state_dict().items() if not torch.equal(t, before[n])]
    assert moved and trainer.ema.steps == 1


def test_the_log_has_rate_norm_and_means(data: Path, tmp_path: Path) -> None:
    recipe = recipe_of("ram-plus", steps=4)
    each, pairs = tmp_path / "each", tmp_path / "pairs"
    for out, every in ((each, 1), (pairs, 2)):
        out.mkdir()
        trainer_of(recipe, data, out, run_options=replace(RUN_OPTIONS, log_every=every)).fit()
    one, two = (
        [row for row in map(json.loads, (out / "log.jsonl").read_text().splitlines()) if "loss" in row]
        for out in (each, pairs)
    )
    assert [row["step"] for row in two] == [2, 4]
    for name in ("loss", "tag", "gradient_norm"):
        means = [(a[name] + b[name]) / 2 for a, b in zip(one[::2], one[1::2], strict=True)]
        assert [row[name] for row in two] == pytest.approx(means, rel=1e-3, abs=2e-4)
    assert one[0]["learning_rate"] == pytest.approx(recipe.rate)
    assert one[3]["learning_rate"] < one[2]["learning_rate"]


def test_the_average_has_the_statistics_of_batch_norms() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = EMA(model, 0.9)
    seen: list[Tensor] = []
    for seed in range(5):
        model(torch.randn(8, 3, generator=torch.Generator().manual_seed(seed)))
        average.update(model)
        seen.append(model.get_buffer("1.running_mean").clone())
    expected = torch.zeros(4)
    for step, now in enumerate(seen, 1):
        expected.lerp_(now, 1 - min(0.9, (1 + step) / (10 + step)))
    assert torch.allclose(average.state(model)["1.running_mean"], expected, atol=1e-6)
    with average.applied(model):
        assert torch.allclose(model.get_buffer("1.running_mean"), expected, atol=1e-6)
    assert torch.equal(model.get_buffer("1.running_mean"), seen[-1])


def test_what_is_measured_is_what_ships(data: Path, tmp_path: Path) -> None:
    trainer = trainer_of(small_recipe(ema=0.9), data, tmp_path)
    trainer.fit()
    lines = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    measured = [line["mAP"] for line in lines if "mAP" in line][-1]
    trainer.load_averages()
    assert trainer.evaluate()["mAP"] == pytest.approx(measured, abs=1e-4)


def hold(out: Path, ready: str) -> None:
    with locked_run_folder(out):
        Path(ready).touch()
        signal.pause()


def test_two_runs_never_share_a_folder(tmp_path: Path) -> None:
    out, ready = tmp_path / "out", tmp_path / "ready"
    process = multiprocessing.get_context("fork").Process(target=hold, args=(out, str(ready)))
    process.start()
    while not ready.exists():
        assert process.is_alive()
    with (
        pytest.raises(AnytagError, match=r"another run writes to .*give another folder"),
        locked_run_folder(out),
    ):
        pass
    process.kill()
    process.join()
    with locked_run_folder(out):
        pass


def test_a_launch_that_is_not_distributed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept()
    monkeypatch.setenv("WORLD_SIZE", "1")
    check_launch(kept)
    assert not kept.said
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(AnytagError, match=r"2 processes were launched, but each would train alone.*torchrun"):
        check_launch(kept)
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_PORT", "29500")
    check_launch(kept)
    assert "several processes, but starts only one" in kept.said[0]
