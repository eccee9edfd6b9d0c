"""The pretrained classifier's say: probabilities of its classes, as words, beside a photo's pooled vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anytag.torch.nn.configs import EvidenceConfig

LOUDER = 3.0
"""Factor of the words, which are shorter than one."""
FLOOR = 1e-7
"""Of a probability whose root is taken: the root's slope at 0 is infinite."""


class Evidence(nn.Module):
    """Means of the late features and of the memory -> what is added to the pooled vector.

    The classifier's probabilities p become words: p C and sqrt(p) C, with C the text vectors of the class
    names; and sqrt(p) itself is seen. So a class that no photo of training showed still says its name, and
    names near it.

    Args:
        config: its numbers.
        features: F, of the means.
        width: D, of the pooled vector.
    """

    names: Tensor

    def __init__(self, config: EvidenceConfig, features: int, width: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(features, config.classes).requires_grad_(False)
        self.register_buffer("names", torch.zeros(config.classes, config.words))
        self.seen = nn.Linear(2 * features, width, bias=False)
        inputs = 2 * config.words + config.classes
        self.said = nn.Linear(inputs, width, bias=False)
        self.seen_hidden = nn.Linear(2 * features, config.hidden)
        self.said_hidden = nn.Linear(inputs, config.hidden, bias=False)
        self.out = nn.Linear(config.hidden, width)
        nn.init.zeros_(self.seen.weight)
        nn.init.normal_(self.said.weight, std=0.01)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, late: Tensor, memory: Tensor) -> Tensor:
        """late N×F, memory N×F -> N×D."""
        p = self.probabilities(memory)
        root = p.clamp_min(FLOOR).sqrt()
        words = LOUDER * torch.cat([p @ self.names, root @ self.names, root], 1)
        seen = torch.cat([late, memory], 1)
        hidden = (self.seen_hidden(seen) + self.said_hidden(words)).relu()
        added: Tensor = self.seen(seen) + self.said(words) + self.out(hidden)
        return added

    def probabilities(self, memory: Tensor) -> Tensor:
        """Of the classes: N×F -> N×C."""
        p: Tensor = self.classifier(memory).softmax(1)
        return p
