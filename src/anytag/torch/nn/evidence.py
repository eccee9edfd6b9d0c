"""Evidence: class probabilities of a classifier as an additional input to the pooled vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anytag.torch.nn.configs import EvidenceConfig

WORD_SCALE = 3.0
"""Scale of the word vectors, whose norm is below 1."""
MIN_PROBABILITY = 1e-7
"""Lower bound of a probability before its square root, whose slope at 0 is infinite."""


class Evidence(nn.Module):
    """Pooled features of the backbone -> a vector added to the pooled vector.

    The classifier's probabilities p enter as text vectors, p C and sqrt(p) C, with C the text vectors of the
    class names, and as sqrt(p) itself. So a class without training photos still contributes its name, and
    similar names. The classifier is the pretrained one, kept by distillation while the backbone is trained.

    Args:
        config: its dimensions.
        features: F, the width of the pooled features.
        width: D, the width of the pooled vector.
    """

    names: Tensor

    def __init__(self, config: EvidenceConfig, features: int, width: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(features, config.classes)
        self.register_buffer("names", torch.zeros(config.classes, config.words))
        self.seen = nn.Linear(features, width, bias=False)
        inputs = 2 * config.words + config.classes
        self.said = nn.Linear(inputs, width, bias=False)
        self.seen_hidden = nn.Linear(features, config.hidden)
        self.said_hidden = nn.Linear(inputs, config.hidden, bias=False)
        self.out = nn.Linear(config.hidden, width)
        nn.init.zeros_(self.seen.weight)
        nn.init.normal_(self.said.weight, std=0.01)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Pooled features N×F -> N×D."""
        p = self.classifier(features).softmax(1)
        root = p.clamp_min(MIN_PROBABILITY).sqrt()
        words = WORD_SCALE * torch.cat([p @ self.names, root @ self.names, root], 1)
        hidden = (self.seen_hidden(features) + self.said_hidden(words)).relu()
        added: Tensor = self.seen(features) + self.said(words) + self.out(hidden)
        return added
