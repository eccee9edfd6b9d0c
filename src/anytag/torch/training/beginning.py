"""Where a run of the embedded model starts: at its backbone's classifier, or at a model folder that ships."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from anytag.errors import ModelError
from anytag.models.folder import ModelFolder
from anytag.queries.bank import Bank
from anytag.text_encoders.static import StaticTextEncoder
from anytag.torch.checkpoints.load import load_decoder, stored
from anytag.torch.nn.network import ImageEncoder
from anytag.torch.training.first_pass import class_term
from anytag.torch.training.student import Student
from anytag.vocabulary import Vocabulary

ENCODER = "encoder.safetensors"
"""The image network in floats, of a folder whose graph is in integers: scripts/float_weights.py writes it."""
RECALLED = 0.3
"""Share of what the classifier knows that is left to the memory when a run starts."""


@torch.no_grad()
def start_from_classifier(student: Student, classifier: nn.Linear, features: Tensor) -> None:
    """Gives the classes' tags the classifier's own rows, as far as the width holds them.

    The image projection becomes the classifier's leading right singular vectors, centred and scaled so that
    the mean token of a photo has mean 0 and variance 1 in every direction, and the residuals its coordinates
    there. So training starts with what the backbone knows; and without the centring all logits would swing
    together for hundreds of steps.

    Args:
        features: N×C×h×w of a few hundred photos, what the first trained stage expects.
    """
    encoder, width = student.network.encoder, student.network.config.width
    backbone = encoder.backbone
    pooled = torch.cat([backbone(part, student.first).mean((2, 3)) for part in torch.split(features, 64)])
    rows = classifier.weight - classifier.weight.mean(0)
    left, values, right = torch.linalg.svd(rows, full_matrices=False)
    directions = right[:width]
    spread = (pooled @ directions.T).std(0)
    proj = encoder.projection
    proj.weight.copy_(directions / spread[:, None])
    proj.bias.copy_(-proj.weight @ pooled.mean(0))
    if encoder.frozen_from:
        encoder.recall.weight.copy_(RECALLED * proj.weight)
        proj.weight.mul_(1 - RECALLED)
    known = left[:, :width] * values[:width] * spread
    classes = class_term(student)
    student.queries.residual[classes.tags[classes.taught]] = known[classes.taught]


@torch.no_grad()
def start_from_folder(
    student: Student, folder: ModelFolder, *, vocabulary: Vocabulary, classifier: nn.Linear,
    memory: Tensor | None = None,
) -> None:  # fmt: skip
    """Gives the student what a model folder holds: late stages, projections, decoder and queries.

    Where the folder's network has no memory, `recall` becomes what brings the classes' queries nearest to the
    classifier.

    Args:
        vocabulary: the student's tags; those that the folder does not know start without a residual.
        classifier: of the student's backbone.
        memory: N×F of a few hundred photos, what the student's memory gives of them; needed where the
            folder's network has none.

    Raises:
        ModelError: the folder's network or text encoder is not the student's, or `memory` is needed.
    """
    encoder = student.network.encoder
    recalls = _read_encoder(encoder, folder, first=encoder.frozen_from or student.trained)
    if encoder.frozen_from and not recalls and memory is None:
        raise ModelError(
            f"the image network of {folder.path} has no memory, so what is recalled is fitted to photos: "
            "give `memory`, as anytag.torch.training.mini.sample does, or start from a folder that has one"
        )
    student.network.folded.load_state_dict(load_decoder(folder).state_dict())
    words = StaticTextEncoder.from_folder(folder.text)
    projection = student.queries.projection
    projection.copy_arrays(words.projection)
    known = Vocabulary.read(folder.file("vocabulary.jsonl"))
    bank = Bank.read(folder.file("queries.safetensors"), tags=len(known), width=folder.card.width)
    text = student.queries.text
    for number, tag in enumerate(vocabulary):
        if tag.id in known:
            rows = torch.from_numpy(bank.queries(np.asarray(known.index(tag.id))))  # P×D
            projected = projection(text[number])
            count = min(int((rows != 0).any(-1).sum()), int((projected != 0).any(-1).sum()))
            student.queries.residual[number] = (rows[:count] - projected[:count]).mean(0)
    if encoder.frozen_from and not recalls and memory is not None:
        _teach_recall(student, classifier, memory)


def _read_encoder(encoder: ImageEncoder, folder: ModelFolder, *, first: int) -> bool:
    """Stages from `first` on and the projections, as floats; whether the folder's network has a memory."""
    if ENCODER not in folder:
        raise ModelError(
            f"{folder.path} keeps its image network in integers, which no run can start from: write a copy "
            f"with floats by python -m scripts.float_weights {folder.path} FOLDER, and start from that"
        )
    early = tuple(f"backbone.stages.{stage}." for stage in range(first))
    weights = {n: w for n, w in stored(folder, ENCODER).items() if not n.startswith(early)}
    ours = dict(encoder.named_parameters())
    for name, weight in weights.items():
        if name not in ours or ours[name].shape != weight.shape:
            given = tuple(ours[name].shape) if name in ours else "no such weight"
            raise ModelError(
                f"{folder.file(ENCODER)}: {name} {tuple(weight.shape)}, the network has {given}; "
                "name another start"
            )
        ours[name].copy_(weight)
    return "recall.weight" in weights


def _teach_recall(student: Student, classifier: nn.Linear, memory: Tensor) -> None:
    """What the queries of the classes can say of the classifier's rows, by least squares."""
    encoder, queries = student.network.encoder, student.queries()
    means = queries.sum(1) / (queries != 0).any(-1).sum(1, keepdim=True).clamp_min(1)  # K×D
    classes = class_term(student)
    taught = classes.tags[classes.taught]
    rows = (classifier.weight - classifier.weight.mean(0))[classes.taught]
    encoder.recall.weight.copy_(RECALLED * torch.linalg.lstsq(means[taught], rows).solution)
    encoder.projection.bias.sub_(encoder.recall.weight @ memory.mean(0))
