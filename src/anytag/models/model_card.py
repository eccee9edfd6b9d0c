"""The README.md of a model on the Hub, generated from its card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from anytag.models.card import Card

_PAGE = """\
---
library_name: anytag
pipeline_tag: image-classification
license: {licence_key}
tags:
- image-tagging
- {card.family}
---

# {card.name}

{card.description}

```sh
pip install anytag
anytag pull hf-hub:{repository}
anytag tag PHOTO --model {repository_name}
```

| | |
|---|---|
| family | {card.family} |
| version | {card.version} |
| image | {card.image.size}×{card.image.size} pixels, {card.image.resample} |
| size | {megabytes:,.1f} MB |
| licence | {card.licence} |
{metrics}
**Training data.** {card.training_data}

**Thresholds.** {card.thresholds}
{source}"""


def model_page(card: Card, repository: str) -> str:
    """Generate README.md for the repository ``owner/name``."""
    metrics = "".join(f"| {name} | {value} |\n" for name, value in flat_metrics(card.metrics))
    source = (
        "\n**Source.** " + json.dumps(dict(card.source), ensure_ascii=False) + "\n" if card.source else ""
    )
    return _PAGE.format(
        card=card,
        repository=repository,
        repository_name=repository.rpartition("/")[2],
        licence_key="apache-2.0" if card.licence.startswith("Apache-2.0") else "other",
        megabytes=sum(facts.bytes for facts in card.files.values()) / 1e6,
        metrics=metrics,
        source=source,
    )


def flat_metrics(metrics: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Flatten nested metrics: {"coco": {"mAP": 0.5}} -> ("coco mAP", 0.5)."""
    flat: list[tuple[str, Any]] = []
    for name, value in metrics.items():
        flat += (
            flat_metrics(value, f"{prefix}{name} ")
            if isinstance(value, Mapping)
            else [(prefix + name, value)]
        )
    return flat
