"""Logging to TensorBoard, if it is installed, and to Weights & Biases, if it is requested."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from anytag.errors import MissingExtraError

if TYPE_CHECKING:
    from anytag.torch.training.trainer import Trainer

BOARD = "tensorboard"
RUN_ID = "wandb.id"
"""File with the id of the Weights & Biases run, which a resumed run continues."""


class Trackers:
    """Writes lines of the log to the trackers; does nothing before `open`."""

    def __init__(self) -> None:
        self._board: Any = None
        self._wandb: Any = None

    def open(self, trainer: Trainer) -> None:
        """Start logging, or resume it and drop points after the resumed step.

        Raises:
            MissingExtraError: Weights & Biases is requested and not installed.
        """
        if not trainer.accelerator.is_main_process:
            return
        if trainer.run_options.tensorboard:
            self._board = _tensorboard(trainer)
        if trainer.run_options.wandb:
            self._wandb = _wandb(trainer)

    def write(self, line: Mapping[str, Any]) -> None:
        """Write one line of the log at its "step"."""
        step = int(line["step"])
        for name, value in line.items():
            if self._board is not None and name not in ("step", "of"):
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(dict(line), step=step)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def _tensorboard(trainer: Trainer) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        trainer.report.say(
            "TensorBoard is not installed (pip install 'anytag[train]'); all figures are in log.jsonl."
        )
        return None
    return SummaryWriter(str(trainer.out / BOARD), purge_step=trainer.step + 1)


def _wandb(trainer: Trainer) -> Any:
    try:
        import wandb  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise MissingExtraError("Weights & Biases", "wandb") from error
    known = trainer.out / RUN_ID
    id = known.read_text(encoding="utf-8") if trainer.step and known.exists() else None
    run = wandb.init(
        project=trainer.run_options.wandb,
        id=id,
        dir=str(trainer.out),
        config=asdict(trainer.recipe),
        resume="allow",
    )
    known.write_text(run.id, encoding="utf-8")
    return run
