"""What Tag2Text, RAM and RAM++ are trained for: one row each, of the same terms."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Matching:
    """How alignment heads are trained (ALBEF, section 3 and its configuration).

    Attributes:
        queue: pairs that are remembered as negatives; as many as a step has, at least.
        decay: share of the slow copy that stays, at each step.
        trust: share of the contrast's targets that is the slow copy's own opinion.
        unguided: share of the photos whose tags are not told in a step. Tags come from the very caption that
            is to be found: always told, they would be all that is learned.
    """

    queue: int = 65536
    decay: float = 0.995
    trust: float = 0.4
    unguided: float = 0.3


@dataclass(frozen=True)
class Objective:
    """The terms of a family, added up as published (Tag2Text, section 3.3; RAM, 3; RAM++, 3.4).

    Attributes:
        captions: tags and photo -> the caption's wordpieces. The tag term is then scaled to this one's size.
        distils: the pooled vector is drawn to CLIP's.
        aligns: the captions' text vectors are queries, and each photo wants its own alone.
        matching: contrast and match of photos with captions, for alignment heads (Tag2Text, section 3.2).
        gamma_neg: of the tags' asymmetric loss.
        alignment_gamma_neg: of the alignment's.
        sums: the losses of tags and alignment are sums over a process's photos, as in the published code,
            rather than means.
        same_captions_match: a photo fits every caption that equals its own; in the published code it fits
            its own alone, and equal ones of other photos are negatives.
    """

    captions: bool = False
    distils: bool = False
    aligns: bool = False
    matching: Matching | None = None
    gamma_neg: float = 7.0
    alignment_gamma_neg: float = 4.0
    sums: bool = False
    same_captions_match: bool = True

    @property
    def reads(self) -> bool:
        """Whether captions are read as wordpieces."""
        return self.captions or self.matching is not None


OBJECTIVES = {
    "tag2text": Objective(captions=True),
    "ram": Objective(captions=True, distils=True),
    "ram-plus": Objective(distils=True, aligns=True),
}
