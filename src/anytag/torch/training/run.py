"""A run: recipe, data, output folder, and options of its execution."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from anytag.models.folder import sha256_of
from anytag.torch.training.recipes import Recipe

_TEXTS = ("vocabulary", "descriptions", "embedding", "wordpieces")
_OF_MINI = ("vocabulary.jsonl", "descriptions.jsonl", "imagenet.json")


@dataclass(frozen=True)
class RunOptions:
    """Options of a run's execution, which do not define what it learns.

    They do not change the result beyond rounding, except for `accumulate` and the number of processes: batch
    norm statistics, dropout masks, the negatives of captions, the mean over their wordpieces and the scale of
    the tag loss beside it are those of the photos of one part.

    Attributes:
        accumulate: number of parts for gradient accumulation.
        compile: use torch.compile, which pays off on a GPU.
        checkpointing: use gradient checkpointing of the backbone's stages.
        workers: number of processes that read photos.
        log_every: steps between two lines of the log.
        save_minutes: minutes between two states.
        tensorboard: log to OUT/tensorboard, if the package is installed.
        wandb: name of a Weights & Biases project; empty: none.
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
    """A run.

    Attributes:
        recipe: its recipe.
        data: file or URL of rows; for distillation, a folder of photos.
        out: the run's folder.
        run_options: options of its execution.
        tag_list: the tags to which the ids of published annotations refer, which are then the vocabulary.
        cache: folder of cached features, for recipes that use them; None: a subfolder of `out`.
    """

    recipe: Recipe
    data: Path | str
    out: Path
    run_options: RunOptions = RunOptions()
    tag_list: Path | None = None
    cache: Path | None = None

    def source_hashes(self) -> dict[str, str]:
        """SHA-256 of the contents of the files that the run reads, by the option that names them.

        Rows that are not read for cached features have their own hash, see `Annotations`.
        """
        recipe = self.recipe
        files = {f"{key}=": [Path(getattr(recipe, key))] for key in _TEXTS if getattr(recipe, key)}
        if self.tag_list is not None:
            files["--tag-list"] = [self.tag_list]
        if recipe.features is not None:
            files["--data"] = [Path(self.data)]
            if recipe.vocabulary:
                files["vocabulary="] = [Path(recipe.vocabulary, name) for name in _OF_MINI]
        digests = {option: "".join(map(sha256_of, paths)) for option, paths in files.items()}
        return {option: hashlib.sha256(text.encode()).hexdigest() for option, text in digests.items()}
