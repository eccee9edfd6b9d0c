"""Runs on photos: families, several processes, interruptions, failures."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import re
import resource
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.multiprocessing.spawn import spawn

import anytag.torch.nn.bert_layers
from anytag import Tagger
from anytag.data.rows import Row, read_rows
from anytag.errors import AnytagError, ModelError
from anytag.models.folder import ModelFolder
from anytag.models.tensors import map_tensors
from anytag.text_encoders import StaticTextEncoder
from anytag.text_encoders.prompts import plain_prompt
from anytag.text_encoders.queries import tag_rows
from anytag.torch.checkpoints.load import load_network
from anytag.torch.training.annotation_store import Annotations
from anytag.torch.training.dry_run import plan
from anytag.torch.training.fit import train
from anytag.torch.training.objectives import Matching
from anytag.torch.training.photo_dataset import PhotoDataset, Photos, check_captions
from anytag.torch.training.run import Run
from anytag.torch.training.student import FixedQueries
from anytag.torch.training.texts import vocabulary_of
from anytag.vocabulary import Vocabulary
from tests.clips import save_tiny_clip, save_tiny_image_tower
from tests.command import run
from tests.runs import (
    RUN_OPTIONS,
    Faulty,
    Kept,
    compiled,
    die,
    free_port,
    recipe_of,
    retrieval_recipe,
    share,
    small_recipe,
    trainer_of,
    weights,
)
from tests.s3_server import s3_bucket


def log(out: Path) -> list[dict[str, float]]:
    """The log without fields that depend on time."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("photos_per_second", "waited")} for line in lines]


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor], *, within: float = 0.0) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=within, atol=within, msg=name)


@pytest.mark.slow
def test_the_command_ends_in_a_model(data: Path, tmp_path: Path) -> None:
    words = ["flickr8k-tiny", "steps=9", "batch_size=4", "network.size=32", "backbone=resnet10t", "warmup=1"]
    fast = ["--workers", "0", "--log-every", "1"]
    done = run("train", *words, "--data", data, "--output", tmp_path, *fast)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout[: done.stdout.rindex("}") + 1])["backbone"] == "resnet10t"
    assert f"anytag tag --model {tmp_path / 'model'}" in done.stdout
    assert (tmp_path / "tensorboard").is_dir()
    tagger = Tagger.load(tmp_path / "model")
    assert {"red", "green", "blue"} <= set(tagger.vocabulary.ids)
    assert tagger.tag(data.parent / "0.png", threshold=0).tags
    assert "0.5 for every tag" in tagger.card.thresholds  # six held-out photos are too few to fit thresholds
    first, *_, last = (line for line in log(tmp_path) if "tag" in line)
    assert last["tag"] < first["tag"]
    assert [line["step"] for line in log(tmp_path) if "mAP" in line] == [3, 6, 9]
    again = run("train", *words, "rate=1", "--data", data, "--output", tmp_path)
    assert again.exit_code == 2 and "rate=1.0, was 0.001" in again.stderr


@pytest.mark.parametrize("family", ["tag2text", "ram", "ram-plus"])
def test_families_learn(family: str, data: Path, tmp_path: Path) -> None:
    recipe = recipe_of(family, steps=6, rate=3e-3)
    result = train(Run(recipe, data, tmp_path, replace(RUN_OPTIONS, checkpointing=family == "ram-plus")))
    assert result == tmp_path / "model"
    assert Tagger.load(result).card.family == family
    first, *_, last = (line for line in log(tmp_path) if "tag" in line)
    assert last["tag"] < first["tag"]
    assert ("caption" in first) == (family != "ram-plus")
    assert ("alignment" in first) == (family == "ram-plus")


@pytest.mark.parametrize("family", ["tag2text", "ram-plus", "small"])
def test_runs_on_sampled_tags(family: str, data: Path, tmp_path: Path) -> None:
    made = small_recipe if family == "small" else partial(recipe_of, family)
    recipe = made(steps=2, sampled_tags=1)
    trainer_of(recipe, data, tmp_path / "run").fit()
    assert all(np.isfinite(line["loss"]) for line in log(tmp_path / "run") if "loss" in line)
    some, all_tags = (plan(replace(recipe, sampled_tags=count), data).cost for count in (1, 0))
    assert some.photo_flops < all_tags.photo_flops and some.parameters == all_tags.parameters


def test_a_teacher_has_the_width_of_the_network(data: Path, tmp_path: Path) -> None:
    text, teacher = save_tiny_clip(tmp_path / "text"), save_tiny_image_tower(tmp_path / "image", width=8)
    clip = str(text)
    with pytest.raises(AnytagError, match=r"vectors of width 8, but the network's have \d+: give clip="):
        trainer_of(recipe_of("ram-plus", teacher=str(teacher)), data, tmp_path / "wrong")
    with pytest.raises(ModelError, match="no CLIP image tower can be loaded"):
        trainer_of(recipe_of("ram-plus", teacher=clip, clip=clip), data, tmp_path / "wrong")
    recipe = recipe_of("ram-plus", teacher=str(teacher), clip=clip, steps=2)
    trainer = trainer_of(recipe, data, tmp_path / "run")
    trainer.fit()
    assert all(line["distillation"] > 0 for line in log(tmp_path / "run") if "loss" in line)
    assert next(trainer.teacher.parameters()).device == trainer.accelerator.device  # type: ignore[union-attr]


def test_alignment_heads_learn_and_a_run_that_stops_goes_on_with_its_queue(
    data: Path, tmp_path: Path
) -> None:
    """Tags, captions, contrast and match; weights, momentum encoder and queue of both runs are equal."""
    recipe = retrieval_recipe(steps=6, rate=3e-3)
    trainer_of(recipe, data, tmp_path / "whole").fit()
    first, *_, last = (line for line in log(tmp_path / "whole") if "tag" in line)
    assert {"tag", "caption", "contrast", "match"} <= set(first)
    assert last["tag"] < first["tag"]  # the contrastive loss grows while its queue fills
    broken = trainer_of(recipe, data, tmp_path / "broken")
    for batch in broken.dataset.stream(0, 3):
        broken.student.train()
        broken._step(batch)
    broken.save()
    resumed = trainer_of(recipe, data, tmp_path / "broken")
    resumed.resume()
    assert resumed.step == 3
    resumed.fit()
    one, other = (
        torch.load(tmp_path / name / "state.pt", weights_only=True)["student"] for name in ("whole", "broken")
    )
    assert {"momentum.texts", "momentum.pair_ids", "momentum.copy.head.of_text.weight"} <= set(one)
    assert_same(one, other)
    assert one["momentum.pair_ids"].min() >= 0  # full: 24 pairs in a queue of 10
    trained = one["network.alignment.of_text.weight"]
    assert 0 < (one["momentum.copy.head.of_text.weight"] - trained).abs().max() < 0.1
    assert not any(name.startswith("momentum") for name in weights(tmp_path / "whole"))


@pytest.mark.slow
def test_two_processes_share_the_queue(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same contrast and the same queue as one process; hard negatives are drawn within each."""
    monkeypatch.setattr(anytag.torch.nn.bert_layers, "DROPOUT", 0.0)
    recipe = retrieval_recipe(steps=1)
    recipe = replace(recipe, objective=replace(recipe.objective, matching=Matching(queue=10, unguided=0.0)))
    trainer_of(recipe, data, tmp_path / "one").fit()
    spawn(share, (2, free_port(), recipe, data, tmp_path / "two"), nprocs=2)  # type: ignore[no-untyped-call]
    (one, *_), (two, *_) = log(tmp_path / "one"), log(tmp_path / "two")
    assert one["contrast"] == pytest.approx(two["contrast"], rel=1e-3)
    queues = [
        torch.load(tmp_path / name / "state.pt", weights_only=True)["student"]["momentum.pair_ids"]
        for name in ("one", "two")
    ]
    assert sorted(queues[0].tolist()) == sorted(queues[1].tolist())


@pytest.mark.parametrize(("family", "prompts"), [("ram-plus", "descriptions"), ("ram", "words")])
def test_custom_tags_are_asked_as_tags_are_trained(
    family: str, prompts: str, data: Path, tmp_path: Path
) -> None:
    """RAM++ uses the texts of its file unchanged: 51 per tag in the published format, without the name."""
    tags, file = _tags(data), tmp_path / "descriptions.jsonl"
    said = {
        tag.id: [plain_prompt(tag.name), *(f"a {tag.name} with {n} corners" for n in range(50))]
        for tag in tags
    }
    lines = (json.dumps({"id": id, "descriptions": texts}) for id, texts in said.items())
    file.write_text("\n".join(lines))
    recipe = recipe_of(family, steps=1, descriptions=str(file) if family == "ram-plus" else "")
    result = train(Run(recipe, data, tmp_path / "out", RUN_OPTIONS))
    model = ModelFolder.open(result)
    assert model.card.text is not None and model.card.text.prompts == prompts
    trained = np.array(map_tensors(model.file("queries.safetensors"))["rows"])
    assert trained.shape[1] == (51 if family == "ram-plus" else 1)
    text = StaticTextEncoder.from_folder(model.file("text/table.safetensors").parent)
    for tag, rows in zip(tags, trained, strict=True):
        own = tag_rows(tag.name, said[tag.id] if family == "ram-plus" else (), text, prompts=prompts)
        np.testing.assert_allclose(rows, own, atol=1e-6)


def test_the_slow_copy_is_trusted_more_and_more_in_the_first_epoch(data: Path, tmp_path: Path) -> None:
    trainer = trainer_of(retrieval_recipe(steps=9), data, tmp_path)
    trust = []
    for step, batch in enumerate(trainer.dataset.stream(0, 5)):
        trainer.step = step
        made = trainer._prepare(batch)
        assert made.trust is not None
        trust.append(round(made.trust[0].item(), 4))
    assert trust == [0.0, 0.1333, 0.2667, 0.4, 0.4]  # three steps an epoch


@pytest.mark.parametrize(("warmup", "says"), [(2, False), (3, True)])
def test_a_warmup_longer_than_the_run_is_reported(
    warmup: int, says: bool, data: Path, tmp_path: Path
) -> None:
    trainer = trainer_of(recipe_of("ram", steps=2, warmup=warmup), data, tmp_path)
    kept = trainer.report = Kept()
    trainer.fit()
    assert any("warmup=3 is longer than the run of 2 steps" in line for line in kept.said) == says


def test_heads_are_new_where_the_run_before_had_none(data: Path, tmp_path: Path) -> None:
    trainer_of(recipe_of("tag2text", steps=1), data, tmp_path / "a").fit()
    trainer = trainer_of(retrieval_recipe(start=str(tmp_path / "a")), data, tmp_path / "b")
    before, momentum = weights(tmp_path / "a"), trainer.plain.momentum
    assert momentum is not None
    assert_same(before, {name: trainer.plain.state_dict()[name] for name in before})
    for name, tensor in momentum.copy.encoder.named_parameters():
        assert torch.equal(tensor, before[f"network.encoder.{name}"])


def test_matching_needs_captions_and_room(data: Path, tmp_path: Path) -> None:
    bare = [Row("0.png", "", "train", tags=("red",)), Row("1.png", "", "val", ("A wall.",), ("red",))]
    kept = Kept()
    rows = Annotations.from_rows([*bare, *read_rows(data)])
    check_captions(rows, data, kept)
    assert kept.said == ["1 photos without captions are left out."]
    assert len(Photos(rows, data.parent, _tags(data), captioned=True)) == 12
    with pytest.raises(AnytagError, match="no training photo has a caption"):
        check_captions(Annotations.from_rows(bare), data, kept)
    recipe = retrieval_recipe(batch_size=12)
    with pytest.raises(AnytagError, match=r"matching.queue=10 is less than .*=12; give a longer queue"):
        trainer_of(recipe, data, tmp_path)


@pytest.mark.slow
def test_two_processes_are_one(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same losses, with alignment over all captions; same weights up to rounding."""
    monkeypatch.setattr(anytag.torch.nn.bert_layers, "DROPOUT", 0.0)
    recipe = recipe_of("ram-plus", steps=3)
    trainer_of(recipe, data, tmp_path / "one").fit()
    arguments = (2, free_port(), recipe, data, tmp_path / "two")
    spawn(share, arguments, nprocs=2)  # type: ignore[no-untyped-call]
    for one, two in zip(log(tmp_path / "one"), log(tmp_path / "two"), strict=True):
        assert one == pytest.approx(two, rel=1e-3, abs=2e-4)
    assert_same(weights(tmp_path / "one"), weights(tmp_path / "two"), within=2e-4)


@pytest.mark.slow
def test_parted_tensors_are_one(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FSDP: same losses and weights as one process, also when resumed; the result is not sharded."""
    monkeypatch.setattr(anytag.torch.nn.bert_layers, "DROPOUT", 0.0)
    recipe = recipe_of("ram-plus", steps=3, ema=0.9)
    trainer_of(recipe, data, tmp_path / "one").fit()
    arguments = (2, free_port(), recipe, data, tmp_path / "two", True)
    spawn(share, arguments, nprocs=2)  # type: ignore[no-untyped-call]
    for one, two in zip(log(tmp_path / "one")[2:], log(tmp_path / "two"), strict=True):
        assert one == pytest.approx(two, rel=1e-3, abs=2e-4)
    assert_same(weights(tmp_path / "one"), weights(tmp_path / "two"), within=2e-4)
    written = load_network(tmp_path / "two" / "model").state_dict()
    kept = {name.removeprefix("network."): tensor for name, tensor in weights(tmp_path / "two").items()}
    assert_same(written, {name: kept[name] for name in written}, within=0)


@pytest.mark.slow
def test_parted_heads_learn_beside_a_parted_copy(data: Path, tmp_path: Path) -> None:
    """FSDP: same as DDP with two processes, in which hard negatives are sampled alike."""
    recipe = retrieval_recipe(steps=3)
    for parted in (False, True):
        out = tmp_path / str(parted)
        spawn(share, (2, free_port(), recipe, data, out, parted), nprocs=2)  # type: ignore[no-untyped-call]
    for whole, cut in zip(log(tmp_path / "False")[2:], log(tmp_path / "True"), strict=True):
        # The caption loss differed by up to 0.3 % after three steps; the reason is unknown.
        apart = {"caption", "loss"}  # the loss includes the caption term
        for rel, names in ((1e-2, whole.keys() & apart), (1e-3, whole.keys() - apart)):
            assert {n: whole[n] for n in names} == pytest.approx(
                {n: cut[n] for n in names}, rel=rel, abs=2e-4
            )


@pytest.mark.slow
def test_a_compiled_run_is_the_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anytag.torch.nn.bert_layers, "DROPOUT", 0.0)
    recipe = recipe_of("ram-plus", steps=2)
    trainer_of(recipe, data, tmp_path / "plain").fit()
    spawned = multiprocessing.get_context("spawn").Process(
        target=compiled, args=(recipe, data, tmp_path / "compiled")
    )  # accelerate configures compilation once per process
    spawned.start()
    spawned.join()
    assert spawned.exitcode == 0
    assert_same(weights(tmp_path / "plain"), weights(tmp_path / "compiled"), within=1e-4)


def test_weights_and_biases_go_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Offline, without an account: a resumed run keeps its id."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run_options = replace(RUN_OPTIONS, wandb="anytag-tests")
    for steps in (1, 2):
        trainer = trainer_of(recipe_of("ram-plus", steps=steps), data, tmp_path, run_options=run_options)
        trainer.resume()
        trainer.fit()
    name = (tmp_path / "wandb.id").read_text()
    files = list((tmp_path / "wandb").glob(f"offline-run-*-{name}/run-{name}.wandb"))
    assert len(files) == 2 == len(list((tmp_path / "wandb").glob("offline-run-*")))
    for file in files:
        for _ in range(300):  # written by another process, possibly late
            if b"alignment" in file.read_bytes():
                break
            time.sleep(0.1)
        else:
            raise AssertionError(f"{file} tells no losses")


@pytest.mark.slow
def test_a_killed_run_goes_on(data: Path, tmp_path: Path) -> None:
    """kill -9 in the second epoch: loss curve and weights equal those of an uninterrupted run."""
    recipe = recipe_of("ram-plus", steps=5)
    trainer_of(recipe, data, tmp_path / "whole").fit()
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=die, args=(recipe, data, tmp_path / "broken"))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    with (tmp_path / "broken" / "log.jsonl").open("a") as file:  # logged after the last state
        file.write('{"step": 4, "loss": 9}\n{"st')
    resumed = trainer_of(recipe, data, tmp_path / "broken")
    resumed.resume()
    assert resumed.step == 3
    resumed.fit()
    assert log(tmp_path / "broken") == log(tmp_path / "whole")
    assert_same(weights(tmp_path / "broken"), weights(tmp_path / "whole"))


def test_drawn_tags_estimate_the_loss_of_all(data: Path, tmp_path: Path) -> None:
    trainer = trainer_of(recipe_of("ram-plus"), data, tmp_path)
    student, batch = trainer.plain.eval(), trainer._prepare(next(trainer.dataset.stream(0, 1)))
    batch.tags = torch.nn.functional.pad(batch.require("tags")[:, :2] * 0, (0, 38))
    batch.tags[:, 0] = 1
    student.queries = FixedQueries(torch.randn(40, 3, 256))
    with torch.no_grad():
        whole = student(batch)["tag"].item()
        student.sampled = 10
        found = [student(batch)["tag"].item() for _ in range(300)]
    assert sum(found) / len(found) == pytest.approx(whole, rel=0.05)


def test_checkpointing_changes_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of("ram-plus", steps=2)
    monkeypatch.setattr(anytag.torch.nn.bert_layers, "DROPOUT", 0.0)
    trainer_of(recipe, data, tmp_path / "kept").fit()
    trainer_of(recipe, data, tmp_path / "again", run_options=replace(RUN_OPTIONS, checkpointing=True)).fit()
    assert_same(weights(tmp_path / "kept"), weights(tmp_path / "again"), within=1e-5)


def test_parts_of_a_step_are_the_step(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anytag.torch.nn.bert_layers, "DROPOUT", 0.0)
    recipe = recipe_of("ram-plus", steps=2)
    recipe = replace(recipe, objective=replace(recipe.objective, aligns=False))
    trainer_of(recipe, data, tmp_path / "whole").fit()
    trainer_of(recipe, data, tmp_path / "parts", run_options=replace(RUN_OPTIONS, accumulate=2)).fit()
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "parts"), within=2e-4)


def test_bad_steps_are_left_out_and_said(data: Path, tmp_path: Path) -> None:
    trainer = trainer_of(recipe_of("ram-plus", steps=3), data, tmp_path)
    kept = trainer.report = Kept()
    trainer.plain.__class__, Faulty.bad = Faulty, frozenset({1})
    trainer.fit()
    assert [line for line in kept.said if "is skipped" in line] == [
        "Step 1 is skipped: its gradient is not finite (the loss is nan)."
    ]
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())


def test_a_run_of_bad_steps_ends(data: Path, tmp_path: Path) -> None:
    trainer = trainer_of(recipe_of("ram-plus", steps=9), data, tmp_path)
    trainer.plain.__class__, Faulty.bad = Faulty, frozenset(range(9))
    with pytest.raises(AnytagError, match="step 4: the gradient was not finite for 5 steps in a row"):
        trainer.fit()


def test_a_full_disk_keeps_the_last_state(data: Path, tmp_path: Path) -> None:
    trainer = trainer_of(recipe_of("ram-plus"), data, tmp_path)
    trainer.save()
    before = (tmp_path / "state.pt").read_bytes()
    kept = trainer.report = Kept()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        trainer._try_save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "state.pt cannot be written" in kept.said[0] and "training continues" in kept.said[0]
    assert (tmp_path / "state.pt").read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))


def test_a_photo_that_cannot_be_read_is_replaced(data: Path) -> None:
    rows = [row for row in read_rows(data) if row.split == "train"]
    photos = Photos([Row("gone.png", "", "train", tags=("red",)), *rows[:3]], data.parent, _tags(data))
    kept = Kept()
    corpus = PhotoDataset(photos, size=16, batch_size=4, seed=0, report=kept)
    (batch,) = corpus.stream(0, 1)
    assert batch.require("pixels").shape == (4, 3, 16, 16)
    assert len(kept.said) == 1 and "gone.png" in kept.said[0]


def test_no_photo_can_be_read(data: Path) -> None:
    rows = [Row(f"gone-{n}.png", "", "train", tags=("red",)) for n in range(30)]
    corpus = PhotoDataset(Photos(rows, data.parent, _tags(data)), size=16, batch_size=4, seed=0)
    with pytest.raises(
        AnytagError,
        match=r"20 random photos cannot be read, the last one is gone-.*: no such file; check",
    ):
        next(corpus.stream(0, 1))
    here = PhotoDataset(Photos(rows, "", _tags(data)), size=16, batch_size=4, seed=0)
    with pytest.raises(AnytagError, match=r"relative to \.$"):
        next(here.stream(0, 1))


def test_photos_come_from_a_bucket(data: Path, tmp_path: Path) -> None:
    """The same run from S3, with a worker process, and by the command."""
    recipe = recipe_of("ram-plus", steps=2)
    trainer_of(recipe, data, tmp_path / "disk").fit()
    with s3_bucket() as url:
        fsspec.filesystem("s3").put(str(data.parent), f"{url}/photos", recursive=True)
        rows = f"{url}/photos/rows.jsonl"
        trainer_of(recipe, rows, tmp_path / "bucket", run_options=replace(RUN_OPTIONS, workers=1)).fit()
        done = run("train", "flickr8k-tiny", "--data", rows, "--dry-run")
    assert_same(weights(tmp_path / "disk"), weights(tmp_path / "bucket"))
    assert done.exit_code == 0 and "12 photos" in done.stdout


# A worker that dies while sending a batch leaves an unclosed socket.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
def test_a_lost_worker_is_replaced(data: Path, tmp_path: Path) -> None:
    kept = Kept()
    photos = Photos(read_rows(data), data.parent, _tags(data))
    corpus = PhotoDataset(photos, size=16, batch_size=4, seed=0, workers=1, report=kept)
    plain = PhotoDataset(photos, size=16, batch_size=4, seed=0)
    corpus.views = _Mortal(corpus.views, tmp_path / "died")  # type: ignore[assignment]
    gc.disable()  # torch raises the error at any time: in Hypothesis's gc callback it would be lost
    try:
        found, expected = list(corpus.stream(0, 5)), list(plain.stream(0, 5))
    finally:
        gc.enable()
    assert all(
        torch.equal(a.require("pixels"), b.require("pixels")) for a, b in zip(found, expected, strict=True)
    )
    assert len(kept.said) == 1 and "a worker failed" in kept.said[0]


class _Mortal:
    """Kills the worker that reads its tenth view, once."""

    def __init__(self, views: object, mark: Path) -> None:
        self.views, self.mark, self.count = views, mark, 0

    def __getitem__(self, key: tuple[int, int]) -> object:
        self.count += 1
        if self.count == 10 and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.views[key]  # type: ignore[index]


def test_a_start_at_another_size(data: Path, tmp_path: Path) -> None:
    recipe = small_recipe(steps=1)
    trainer_of(recipe, data, tmp_path / "a").fit()
    larger = replace(recipe, network=replace(recipe.network, size=48), start=str(tmp_path / "a"), rate=0.0)
    trainer_of(larger, data, tmp_path / "b").fit()
    one, other = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert torch.equal(one["network.decoder.key.weight"], other["network.decoder.key.weight"])
    with pytest.raises(AnytagError, match="does not fit the network"):
        trainer_of(replace(recipe_of("ram-plus"), start=str(tmp_path / "a")), data, tmp_path / "c")
    with pytest.raises(AnytagError, match="expected the folder of a finished run"):
        trainer_of(replace(recipe, start=str(tmp_path / "d")), data, tmp_path / "c")


@pytest.mark.parametrize(("words", "said"), [(["x"], "no recipe 'x'"), (["small"], "--data is missing")])
def test_what_the_command_refuses(words: list[str], said: str) -> None:
    done = run("train", *words)
    assert done.exit_code == 2 and said in done.stderr


def test_a_dry_run_of_the_published_recipe() -> None:
    done = run("train", "ram-plus-14m", "--dry-run")
    assert done.exit_code == 0, done.stderr
    assert "209.6 million trainable parameters" in done.stdout  # the published RAM++ has 210 million
    assert "168,265 steps of 416 photos" in done.stdout


def test_a_dry_run_counts_the_slow_copy() -> None:
    done = run("train", "tag2text-retrieval", "objective.matching.queue=1000", "--dry-run")
    assert done.exit_code == 0, done.stderr
    plain = run("train", "tag2text-14m", "--dry-run")
    said = r"([\d.]+) million trainable parameters, ([\d.]+) million frozen"
    ((trained, fixed),), ((fewer, _),) = (re.findall(said, one.stdout) for one in (done, plain))
    assert 140 < float(trained) - float(fewer) < 145  # a text encoder with cross-attention, and small heads
    assert 440 < float(fixed) < float(trained)  # the copy has no learned queries


def _tags(data: Path) -> Vocabulary:
    return vocabulary_of(read_rows(data))
