"""Objectives: the loss terms, their hyperparameters and weights."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Matching:
    """Hyperparameters of the alignment heads (ALBEF, section 3 and its configuration).

    Attributes:
        queue: length of the momentum queue, at least the batch size.
        decay: decay of the momentum encoder per step.
        trust: weight of the momentum encoder's soft targets (ALBEF's alpha).
        unguided: fraction of photos matched without guiding tags. Tags come from the caption to be matched:
            if they were always given, the heads would learn nothing else.
    """

    queue: int = 65536
    decay: float = 0.995
    trust: float = 0.4
    unguided: float = 0.3


@dataclass(frozen=True)
class Guidance:
    """Selection of the tags that guide a caption, for a caption head on a frozen encoder.

    Attributes:
        unguided: fraction of captions without guiding tags.
        kept: fraction of a caption's tags that guide it otherwise: captions mention all guiding tags, and may
            mention more.
    """

    unguided: float = 0.35
    kept: float = 0.7


@dataclass(frozen=True)
class Weights:
    """Weights of the loss terms, each of which is a mean over photos."""

    tag: float = 1.0
    caption: float = 1.0
    distillation: float = 1.0
    alignment: float = 1.0
    contrast: float = 1.0
    match: float = 1.0
    coarse: float = 1.0
    subject: float = 1.0


@dataclass(frozen=True)
class Objective:
    """The loss terms, added up as published (Tag2Text, section 3.3; RAM, 3; RAM++, 3.4).

    Attributes:
        captions: caption term; the tag term is then scaled to its value.
        distils: distillation term: from the pooled vector of CLIP, or with a first pass from a classifier.
        aligns: alignment term, with text vectors of captions as queries.
        first_pass: terms of the first pass: tags, main subjects and contrast from the pooled vector.
        matching: contrastive and matching terms, for alignment heads (Tag2Text, section 3.2).
        guidance: guidance of captions on a frozen encoder.
        weights: weights of the terms.
        gamma_neg, clip: parameters of the tags' asymmetric loss.
        alignment_gamma_neg: parameter of the alignment's asymmetric loss.
        smoothing: label smoothing of captions.
        temperature: temperature of the distillation from a classifier.
        sums: losses of tags and alignment are sums over a process's photos, as in the published code, instead
            of means.
        same_captions_match: a photo matches every caption that equals its own; in the published code it
            matches only its own, and equal captions of other photos are negatives.
    """

    captions: bool = False
    distils: bool = False
    aligns: bool = False
    first_pass: bool = False
    matching: Matching | None = None
    guidance: Guidance | None = None
    weights: Weights = field(default_factory=Weights)
    gamma_neg: float = 7.0
    clip: float = 0.05
    alignment_gamma_neg: float = 4.0
    smoothing: float = 0.1
    temperature: float = 1.0
    sums: bool = False
    same_captions_match: bool = True

    @property
    def reads(self) -> bool:
        """Whether captions are used as wordpieces."""
        return self.captions or self.matching is not None

    @property
    def tags(self) -> bool:
        """Whether there is a tag term; on a frozen encoder there is none."""
        return self.guidance is None


OBJECTIVES = {
    "tag2text": Objective(captions=True),
    "ram": Objective(captions=True, distils=True),
    "ram-plus": Objective(distils=True, aligns=True),
}
