"""What a recipe would take on the data at hand, or on the published data where none is given."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from anytag.vocabulary import Vocabulary

from .dataset import HELD_OUT, read_data
from .estimate import Estimate, estimate
from .recipes import TrainRecipe
from .run import vocabulary_of

PUBLISHED_PHOTOS, PUBLISHED_TAGS, PUBLISHED_TEXTS = 14_000_000, 4585, 51
CLIP_WIDTH, STATIC_WIDTH = 512, 256


@dataclass(frozen=True)
class Planned:
    """What was counted with; `assumed` says so where no data was given."""

    cost: Estimate
    tags: int
    texts: int
    photos: int
    assumed: str


def plan(recipe: TrainRecipe, data: Path | str | None) -> Planned:
    """Counts a recipe's costs."""
    rows = read_data(data) if data else []
    photos = sum(row.split not in HELD_OUT for row in rows) if data else PUBLISHED_PHOTOS
    tags = PUBLISHED_TAGS
    if recipe.vocabulary:
        tags = len(Vocabulary.read(recipe.vocabulary))
    elif data:
        tags = len(vocabulary_of(rows))
    config, described = recipe.network, recipe.descriptions or recipe.embedding or not data
    texts = PUBLISHED_TEXTS if config.queries == "descriptions" and config.cross and described else 1
    width = CLIP_WIDTH if config.cross and (recipe.clip or not data) else STATIC_WIDTH
    if config.cross is not None and config.queries != "learned":
        config = replace(config, width=width)
    cost = estimate(recipe, config, tags=tags, texts=texts, text_width=width, photos=photos)
    return Planned(cost, tags, texts, photos, "" if data else " (the published numbers; give --data)")
