"""Small runs from photos for tests, also in processes of their own."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import anytag.torch.nn.bert_layers
from anytag.data.rows import Row, write_rows
from anytag.torch.training.batch import Batch
from anytag.torch.training.fit import finish, prepare
from anytag.torch.training.objectives import OBJECTIVES, Matching, Objective
from anytag.torch.training.recipes import Recipe, find
from anytag.torch.training.report import Reporter
from anytag.torch.training.run import Run, RunOptions
from anytag.torch.training.student import Student
from anytag.torch.training.trainer import Trainer
from tests.families import ALIGNMENT, tiny_config

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 40), "blue": (30, 40, 220)}
RUN_OPTIONS = RunOptions(workers=0, log_every=1, tensorboard=False, save_minutes=1e9)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Of a module that imports it: small networks are slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Kept(Reporter):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


def write_photos(folder: Path, *, count: int = 18, held: int = 6) -> Path:
    """Plain photos of three colours, each with a caption; returns rows.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        colour = list(COLOURS)[number % 3]
        shade = np.array(COLOURS[colour]) * (0.7 + 0.3 * number / count)
        Image.new("RGB", (48, 40), tuple(shade.astype(int).tolist())).save(folder / f"{number}.png")
        split = "val" if number >= count - held else "train"
        rows.append(Row(f"{number}.png", "drawn", split, (f"A {colour} wall number {number}.",), (colour,)))
    write_rows(folder / "rows.jsonl", rows)
    return folder / "rows.jsonl"


def recipe_of(family: str, **changes: object) -> Recipe:
    """A family, tiny: 32 pixels, a transformer without random depth."""
    config = tiny_config(family, vit=True)
    made = Recipe(
        about="tests",
        network=config,
        objective=OBJECTIVES[family],
        batch_size=4,
        steps=4,
        rate=1e-3,
        warmup=1,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def retrieval_recipe(**changes: object) -> Recipe:
    """Tag2Text with alignment heads, as tiny."""
    made = recipe_of("tag2text")
    objective = replace(made.objective, matching=Matching(queue=10))
    heads = replace(made.network, alignment=ALIGNMENT)
    return replace(made, network=heads, objective=objective, **changes)  # type: ignore[arg-type]


def small_recipe(**changes: object) -> Recipe:
    """The recipe flickr8k-tiny, smaller."""
    made = find("flickr8k-tiny")
    network = replace(made.network, size=32, width=16, heads=2, text_hidden=16)
    numbers = {"backbone": "resnet10t", "batch_size": 4, "steps": 4, "warmup": 1, "rate": 3e-3}
    return replace(made, network=network, objective=Objective(aligns=True), **{**numbers, **changes})  # type: ignore[arg-type]


def trainer_of(
    recipe: Recipe, data: Path | str, out: Path, *, run_options: RunOptions = RUN_OPTIONS
) -> Trainer:
    return prepare(Run(recipe, data, out, run_options), Reporter())


def weights(out: Path) -> dict[str, Tensor]:
    """What a run learned."""
    found: dict[str, Tensor] = torch.load(out / "student.pt", weights_only=True)
    return found


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def share(
    rank: int, world: int, port: int, recipe: Recipe, data: Path, out: Path, parted: bool = False
) -> None:
    """One process of several; for torch.multiprocessing.spawn.

    Args:
        parted: by FSDP, and broken off before the last step, then resumed.
    """
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }
    torch.set_num_threads(1)
    anytag.torch.nn.bert_layers.DROPOUT = 0.0  # masks would differ
    Student.chunk = 2  # and all pieces together are one step
    if parted:
        part_on_a_cpu()
        broken = trainer_of(recipe, data, out, run_options=replace(RUN_OPTIONS, save_minutes=0.0))
        for batch in islice(broken.dataset.stream(broken.step, broken.total), recipe.steps - 1):
            broken._step(batch)
        broken.save()
    run = Run(recipe, data, out, RUN_OPTIONS)
    trainer = prepare(run, Reporter())
    assert trainer.sharded == parted
    trainer.resume()
    assert trainer.step == (recipe.steps - 1 if parted else 0)
    finish(trainer, run)
    torch.distributed.destroy_process_group()


def part_on_a_cpu() -> None:
    """FSDP as `accelerate launch --use_fsdp --fsdp_version 2` asks for it.

    Accelerate grants it to GPUs alone, though torch parts tensors on a CPU just as well: told that these
    processes have GPUs, it does what it would do there.
    """
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


class Killed(Trainer):
    """Kills its own process before a step, as kill -9 does."""

    at = 3

    def _step(self, batch: Batch) -> dict[str, Tensor]:
        if self.step == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._step(batch)


def die(recipe: Recipe, data: Path, out: Path) -> None:
    """A run that saves after every step and is killed before the fourth."""
    torch.set_num_threads(1)
    trainer = trainer_of(recipe, data, out, run_options=replace(RUN_OPTIONS, save_minutes=0.0))
    trainer.__class__ = Killed
    trainer.fit()


class Faulty(Student):
    """Loses a step's gradient; `bad` says which steps."""

    calls = 0
    bad: frozenset[int] = frozenset()

    def forward(self, batch: object) -> dict[str, Tensor]:
        terms = super().forward(batch)  # type: ignore[arg-type]
        self.calls += 1
        factor = float("nan") if self.calls - 1 in self.bad else 1.0
        return {**terms, "loss": terms["loss"] * factor}


def compiled(recipe: Recipe, data: Path, out: Path) -> None:
    """A run by torch.compile, up to the point where machine code would be made."""
    os.environ["ACCELERATE_DYNAMO_BACKEND"] = "aot_eager"
    torch.set_num_threads(1)
    anytag.torch.nn.bert_layers.DROPOUT = 0.0
    Student.chunk = 2
    trainer = trainer_of(recipe, data, out)
    assert type(trainer.student).__name__ == "OptimizedModule"
    trainer.fit()
