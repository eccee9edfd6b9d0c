"""What a recipe would take on the data at hand, or on the published data where none is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from anytag.errors import AnytagError
from anytag.torch.training.annotation_store import Annotations, build_seconds
from anytag.torch.training.build import fitted_to
from anytag.torch.training.estimate import Estimate, estimate, try_out
from anytag.torch.training.init_weights import adopted, read_start
from anytag.torch.training.recipes import Recipe
from anytag.torch.training.texts import read_rows, read_tag_list, vocabulary_of
from anytag.vocabulary import Vocabulary

PUBLISHED_PHOTOS, PUBLISHED_TAGS, PUBLISHED_TEXTS = 14_000_000, 4585, 51
CLIP_WIDTH, STATIC_WIDTH = 512, 256


@dataclass(frozen=True)
class Planned:
    """What was counted with; `captions` are of the photos, `assumed` says so where no data was given."""

    cost: Estimate
    tags: int
    texts: int
    photos: int
    captions: int
    assumed: str

    @property
    def parse_seconds(self) -> float:
        """To read rows and parse captions once, on this machine."""
        return build_seconds(self.photos, self.captions)

    @property
    def stored_bytes(self) -> int:
        """Of the rows and the columns of their tags, about."""
        return 150 * self.photos + 70 * self.captions


def plan(recipe: Recipe, data: Path | str | None, *, tag_list: Path | None = None) -> Planned:
    """Counts a recipe's costs; arguments as `Run` has them.

    Raises:
        AnytagError: the recipe reads no photos, the data cannot be read, or the network's numbers do not fit
            together.
    """
    if recipe.features is not None:
        raise AnytagError(
            "--dry-run counts runs from photos, and this one reads cached features; docs/how-to/train.md has "
            "its times"
        )
    listed = read_tag_list(tag_list) if tag_list else None
    if recipe.start:
        recipe = adopted(recipe, read_start(Path(recipe.start)))
    rows = Annotations.stored(data, tag_list=listed.ids if listed else ()) if data else None
    photos = PUBLISHED_PHOTOS if rows is None else int((~rows.held).sum())
    captions = PUBLISHED_PHOTOS if rows is None else int(rows.captions[~rows.held].sum())
    tags = PUBLISHED_TAGS
    if recipe.vocabulary:
        tags = len(Vocabulary.read(recipe.vocabulary))
    elif listed is not None:
        tags = len(listed)
    elif rows is not None:
        tags = len(vocabulary_of(rows))
    config, described = recipe.network, recipe.descriptions or recipe.embedding or not data
    texts = PUBLISHED_TEXTS if config.queries == "descriptions" and config.cross and described else 1
    width = CLIP_WIDTH if config.cross and (recipe.clip or not data) else STATIC_WIDTH
    if recipe.embedding:
        table = read_rows(Path(recipe.embedding))
        texts, width = table[..., 0].numel() // tags, table.shape[-1]
    recipe = fitted_to(recipe, width=width)
    try_out(recipe, text_width=width)
    cost = estimate(recipe, tags=tags, texts=texts, text_width=width, photos=photos)
    assumed = "" if data else " (the published numbers; give --data)"
    return Planned(cost, tags, texts, photos, captions, assumed)
