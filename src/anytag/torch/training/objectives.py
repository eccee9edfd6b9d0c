"""What students are trained for: the terms of the loss, their numbers and how they add up."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Matching:
    """How alignment heads are trained (ALBEF, section 3 and its configuration).

    Attributes:
        queue: pairs kept as negatives; at least as many as a step has.
        decay: share of the momentum encoder that stays, at each step.
        trust: share of the contrast's targets that is the momentum encoder's.
        unguided: share of the photos that are matched without guiding tags. Tags come from the very caption
            that is to be found: always given, they would be all that is learned.
    """

    queue: int = 65536
    decay: float = 0.995
    trust: float = 0.4
    unguided: float = 0.3


@dataclass(frozen=True)
class Guidance:
    """Which of its tags guide the writing of a caption, where the encoder is frozen.

    Attributes:
        unguided: part of the captions that are learned without a tag.
        kept: part of a caption's tags that guide it, where any do: so a caption may say more than it is asked
            for, but what is asked for is always said.
    """

    unguided: float = 0.35
    kept: float = 0.7


@dataclass(frozen=True)
class Weights:
    """How the terms add up, each a mean over photos."""

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
    """The terms of the loss, added up as published (Tag2Text, section 3.3; RAM, 3; RAM++, 3.4).

    Attributes:
        captions: tags and photo -> the caption's wordpieces. The tag term is then scaled to this one's size.
        distils: the pooled vector is drawn to CLIP's; with a first pass, tags to a classifier's classes.
        aligns: the captions' text vectors are queries, and each photo wants its own alone.
        first_pass: the pooled vector alone is to tell all tags too, main subjects and captions by contrast.
        matching: contrast and match of photos with captions, for alignment heads (Tag2Text, section 3.2).
        guidance: of captions on a frozen encoder.
        weights: of the terms.
        gamma_neg, clip: of the tags' asymmetric loss.
        alignment_gamma_neg: of the alignment's.
        smoothing: of the captions' labels.
        temperature: of the distillation from a classifier.
        sums: the losses of tags and alignment are sums over a process's photos, as in the published code,
            rather than means.
        same_captions_match: a photo fits every caption that equals its own; in the published code it fits
            its own alone, and equal ones of other photos are negatives.
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
        """Whether captions are read as wordpieces."""
        return self.captions or self.matching is not None

    @property
    def tags(self) -> bool:
        """Whether tags are learned; on a frozen encoder captions alone are."""
        return self.guidance is None


OBJECTIVES = {
    "tag2text": Objective(captions=True),
    "ram": Objective(captions=True, distils=True),
    "ram-plus": Objective(distils=True, aligns=True),
}
