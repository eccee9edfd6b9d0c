"""Initialise a run of the embedded model, from its backbone's classifier or from a model folder."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from anytag.errors import ModelError
from anytag.models.folder import ModelFolder
from anytag.queries.bank import Bank
from anytag.text_encoders.static import StaticTextEncoder
from anytag.torch.checkpoints.load import load_decoder, load_tensors
from anytag.torch.nn.network import ImageEncoder
from anytag.torch.training.first_pass import class_term
from anytag.torch.training.student import Student
from anytag.vocabulary import Vocabulary

ENCODER = "encoder.safetensors"
"""float32 weights of a folder's quantised image network, as scripts/float_weights.py writes them."""


@torch.no_grad()
def start_from_classifier(student: Student, classifier: nn.Linear, features: Tensor) -> None:
    """Initialise the tags of the classifier's classes with the classifier's weights, up to the width's rank.

    The image projection is set to the classifier's leading right singular vectors, centred and scaled such
    that the mean token of a photo has mean 0 and variance 1 in every direction, and the residuals to the
    classifier's coordinates in that basis. So training starts with the knowledge of the backbone. Without
    centring, all logits would oscillate together for hundreds of steps.

    Args:
        features: N×C×h×w of a few hundred photos, the input of the first trained stage.
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
    coordinates = left[:, :width] * values[:width] * spread
    classes = class_term(student)
    student.queries.residual[classes.tags[classes.distilled]] = coordinates[classes.distilled]


@torch.no_grad()
def start_from_folder(student: Student, folder: ModelFolder, *, vocabulary: Vocabulary) -> None:
    """Load trained stages, projection, evidence, decoder and queries of a model folder into the student.

    Args:
        vocabulary: the student's tags; those that the folder does not have start without a residual.

    Raises:
        ModelError: the folder's network or text encoder does not fit the student.
    """
    # The early stages stay exactly pretrained, as they were cached; the folder has them rounded to int8.
    trained = student.trained
    _read_encoder(student.network.encoder, folder, first=trained if trained < len(student.stages) else 0)
    student.network.folded.load_state_dict(load_decoder(folder).state_dict())
    words = StaticTextEncoder.from_folder(folder.text)
    projection = student.queries.projection
    projection.load_arrays(words.projection)
    known = Vocabulary.read(folder.file("vocabulary.jsonl"))
    bank = Bank.read(folder.file("queries.safetensors"), tags=len(known), width=folder.card.width)
    text = student.queries.text
    for number, tag in enumerate(vocabulary):
        if tag.id in known:
            rows = torch.from_numpy(bank.queries(np.asarray(known.index(tag.id))))  # P×D
            projected = projection(text[number])
            count = min(int((rows != 0).any(-1).sum()), int((projected != 0).any(-1).sum()))
            student.queries.residual[number] = (rows[:count] - projected[:count]).mean(0)


def _read_encoder(encoder: ImageEncoder, folder: ModelFolder, *, first: int) -> None:
    """Load stages from `first` on, and the other weights."""
    if ENCODER not in folder:
        raise ModelError(
            f"{folder.path} has only a quantised image network, from which no run can start: write a copy "
            f"with float weights by python -m scripts.float_weights {folder.path} FOLDER, and start from it"
        )
    early = tuple(f"backbone.stages.{stage}." for stage in range(first))
    weights = {n: w for n, w in load_tensors(folder, ENCODER).items() if not n.startswith(early)}
    ours = dict(encoder.named_parameters())
    for name, weight in weights.items():
        if name not in ours or ours[name].shape != weight.shape:
            expected = tuple(ours[name].shape) if name in ours else "no such weight"
            raise ModelError(
                f"{folder.file(ENCODER)}: {name} has shape {tuple(weight.shape)}, the network {expected}; "
                "give another start"
            )
        ours[name].copy_(weight)
