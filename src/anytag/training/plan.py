"""What a recipe would take on the data at hand, or on the published data where none is given."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from anytag.vocabulary import Vocabulary

from .build import backbone_width
from .dataset import HELD_OUT, read_data
from .estimate import Estimate, estimate, try_out
from .recipes import TrainRecipe
from .run import read_tag_list, vocabulary_of

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


def plan(recipe: TrainRecipe, data: Path | str | None, *, tag_list: Path | None = None) -> Planned:
    """Counts a recipe's costs; arguments as `Run` has them.

    Raises:
        AnytagError: the data cannot be read, or the network's numbers do not fit together.
    """
    listed = read_tag_list(tag_list) if tag_list else None
    rows = read_data(data, tag_list=listed.ids if listed else ()) if data else []
    photos = sum(row.split not in HELD_OUT for row in rows) if data else PUBLISHED_PHOTOS
    tags = PUBLISHED_TAGS
    if recipe.vocabulary:
        tags = len(Vocabulary.read(recipe.vocabulary))
    elif listed is not None:
        tags = len(listed)
    elif data:
        tags = len(vocabulary_of(rows))
    config, described = recipe.network, recipe.descriptions or recipe.embedding or not data
    texts = PUBLISHED_TEXTS if config.queries == "descriptions" and config.cross and described else 1
    width = CLIP_WIDTH if config.cross and (recipe.clip or not data) else STATIC_WIDTH
    if config.cross is not None and config.queries != "learned":
        config = replace(config, width=width)
    if not recipe.objective.captions:
        config = replace(config, captions=None)
    if not config.projected:
        config = replace(config, width=backbone_width(recipe))
    try_out(recipe, config, text_width=width)
    cost = estimate(recipe, config, tags=tags, texts=texts, text_width=width, photos=photos)
    return Planned(cost, tags, texts, photos, "" if data else " (the published numbers; give --data)")
