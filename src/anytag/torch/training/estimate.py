"""Estimate the cost of a recipe before it starts, by counting on meta tensors."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from anytag.errors import AnytagError
from anytag.torch.nn.configs import BUILD_ERRORS, NetworkConfig
from anytag.torch.training.batch import Batch
from anytag.torch.training.build import build_error, is_learned, make_student
from anytag.torch.training.objectives import Objective
from anytag.torch.training.recipes import Recipe
from anytag.torch.training.student import Student

_CAPTION, _TAGS = 16, 40  # wordpieces of a typical caption, and of the tags' text


@dataclass(frozen=True)
class Estimate:
    """Estimated cost of a run.

    Attributes:
        parameters: number of trained parameters.
        fixed: number of other values, such as text vectors or a momentum encoder.
        state_bytes: size of weights, gradients, AdamW's two moments, averages and fixed values.
        photo_bytes: activations per photo without gradient checkpointing, with one chunk of tags.
        photo_flops: floating-point operations of a photo's forward and backward pass.
        steps: number of steps of the run.
        speed: floating-point operations per second of a matrix product on this machine.
    """

    parameters: int
    fixed: int
    state_bytes: int
    photo_bytes: int
    photo_flops: float
    steps: int
    speed: float

    def memory(self, photos: int) -> int:
        """Bytes of one process with a batch of `photos`."""
        return self.state_bytes + photos * self.photo_bytes

    def seconds(self, batch_size: int) -> float:
        """Time of the whole run on this machine, if networks reach half the speed of a matrix product."""
        return self.steps * batch_size * self.photo_flops / (self.speed / 2)


def estimate(recipe: Recipe, *, tags: int, texts: int, text_width: int, photos: int) -> Estimate:
    """Estimate the cost of a recipe.

    Args:
        recipe: the recipe, after `resolve_network`.
        tags: K.
        texts: P, texts per tag.
        text_width: width of the text vectors.
        photos: number of training photos.
    """
    count = 4
    make = partial(_meta_inputs, recipe, texts=texts, text_width=text_width, count=count)
    student, _ = make(tags)
    scored = min(tags, recipe.sampled_tags or tags)  # tags per step
    network, batch = make(scored)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(batch)
    trained = sum(p.numel() for p in student.parameters() if p.requires_grad)
    fixed = [*student.buffers(), *(p for p in student.parameters() if not p.requires_grad)]
    copies = 4 + (1 if recipe.ema else 0)  # weight, gradient, two moments, average
    return Estimate(
        parameters=trained,
        fixed=sum(t.numel() for t in fixed),
        state_bytes=4 * copies * trained + sum(t.nbytes for t in fixed),
        photo_bytes=_activations(*make(min(scored, Student.chunk))) // count,
        photo_flops=3 * counter.get_total_flops() / count,
        steps=recipe.steps or recipe.epochs * (photos // recipe.batch_size),
        speed=measured_speed(),
    )


def check_network(recipe: Recipe, *, text_width: int, parts: int = 1) -> None:
    """Check that the network can be built and run, with meta tensors, which takes no time.

    Args:
        parts: number of equal parts into which the photos of a step are split.

    Raises:
        ModelError: the network configuration is invalid.
        AnytagError: a part has one photo, which is too few for batch norm.
    """
    try:
        student, batch = _meta_inputs(recipe, 2, texts=1, text_width=text_width, count=2)
        student(batch)
    except BUILD_ERRORS as error:
        raise build_error(error) from error
    if recipe.batch_size // parts > 1:
        return
    try:
        student, batch = _meta_inputs(recipe, 2, texts=1, text_width=text_width, count=1)
        student(batch)
    except ValueError as error:
        raise AnytagError(
            f"batch_size={recipe.batch_size} in {parts} equal parts (processes × accumulate) is one photo "
            f"per part, which is too few for this network's batch norms: give batch_size={2 * parts} or more"
        ) from error


def _activations(student: Student, batch: Batch) -> int:
    """Bytes saved for the backward pass."""
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved.setdefault(_storage(tensor), tensor)  # kept alive, so that its address is not reused
        return tensor

    own = {_storage(tensor) for tensor in (*student.parameters(), *student.buffers())}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        student(batch)
    return sum(t.untyped_storage().nbytes() for key, t in saved.items() if key not in own)


def _meta_inputs(
    recipe: Recipe, tags: int, *, texts: int, text_width: int, count: int
) -> tuple[Student, Batch]:
    """A student and a batch of `count` photos on the meta device."""
    config = recipe.network
    recipe = replace(recipe, sampled_tags=0)  # which tags are sampled depends on values
    with torch.device("meta"):
        rows = None if is_learned(config) else torch.zeros(tags, texts, text_width)
        student = make_student(recipe, tags=tags, rows=rows)
        student.init_momentum()
        return student.train(), _batch(config, recipe.objective, count=count, tags=tags, width=text_width)


def _storage(tensor: Tensor) -> int:
    """Identity of a tensor's storage, which views share."""
    return int(tensor.untyped_storage()._cdata)


def _batch(config: NetworkConfig, objective: Objective, *, count: int, tags: int, width: int) -> Batch:
    length = _TAGS if config.captions is None else config.captions.tag_length
    ids = torch.zeros(count, length, dtype=torch.int64)
    words = torch.zeros(count, _CAPTION, dtype=torch.int64)
    return Batch(
        pixels=torch.zeros(count, 3, config.size, config.size, dtype=torch.uint8),
        tags=torch.zeros(count, tags),
        tag_ids=ids if objective.reads else None,
        tag_mask=ids if objective.reads else None,
        caption_ids=words if objective.reads else None,
        texts=torch.zeros(count, width) if objective.aligns else None,
        teacher=torch.zeros(count, config.width) if objective.distils else None,
        pair_ids=torch.zeros(count, 2, dtype=torch.int64) if objective.matching else None,
    )


def measured_speed(*, side: int = 768, times: int = 3) -> float:
    """Floating-point operations per second of a matrix product, on the GPU if there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    side = 8192 if device == "cuda" else side
    a = torch.randn(side, side, device=device)
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        (a @ a).sum().item()  # waits for the GPU
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best
