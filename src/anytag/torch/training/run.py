"""A run: what is trained, on what, where to, and on which machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from anytag.torch.training.recipes import Recipe


@dataclass(frozen=True)
class RunOptions:
    """How a run is run, as opposed to what it learns.

    None of this changes the result beyond rounding, but for `accumulate` and the number of processes: batch
    norms take the statistics of the photos that are computed together, dropout draws its masks for each part,
    and captions are each other's negatives within a part.

    Attributes:
        accumulate: parts that a process takes a step's photos in, one after the other.
        compile: torch.compile, worth it on a GPU.
        checkpointing: activations of stages and layers are computed again rather than kept.
        workers: processes that read photos.
        log_every: steps between two lines of the log.
        save_minutes: between two states.
        tensorboard: curves in OUT/tensorboard, where the package is installed.
        wandb: name of a Weights & Biases project; none when empty.
    """

    accumulate: int = 1
    compile: bool = False
    checkpointing: bool = False
    workers: int = 2
    log_every: int = 20
    save_minutes: float = 4.0
    tensorboard: bool = True
    wandb: str = ""


@dataclass(frozen=True)
class Run:
    """What to train, on what, where to.

    Attributes:
        recipe: its numbers.
        data: rows, of a file or a URL; to distil, a folder of photos.
        out: the run's folder.
        run_options: how to run it.
        tag_list: names that the ids of published annotations number; they are the vocabulary then.
        cache: where features of frozen stages are kept, of recipes that learn from them; OUT/cache when None.
    """

    recipe: Recipe
    data: Path | str
    out: Path
    run_options: RunOptions = RunOptions()
    tag_list: Path | None = None
    cache: Path | None = None
