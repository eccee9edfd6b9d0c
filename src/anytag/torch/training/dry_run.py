"""Estimate the cost of a recipe on given data, or on the published data (`anytag train --dry-run`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from anytag.errors import AnytagError
from anytag.torch.training.annotation_store import Annotations, build_seconds
from anytag.torch.training.build import resolve_network
from anytag.torch.training.estimate import Estimate, check_network, estimate
from anytag.torch.training.init_weights import adopt_network, read_start
from anytag.torch.training.recipes import Recipe
from anytag.torch.training.texts import read_rows, read_tag_list, vocabulary_of
from anytag.vocabulary import Vocabulary

PUBLISHED_PHOTOS, PUBLISHED_TAGS, PUBLISHED_TEXTS = 14_000_000, 4585, 51
CLIP_WIDTH, STATIC_WIDTH = 512, 256


@dataclass(frozen=True)
class DryRun:
    """An estimate and the sizes it is based on.

    Attributes:
        cost: the estimate.
        tags: K.
        texts: P, texts per tag.
        photos: number of training photos.
        captions: number of their captions.
        assumed: a note if the sizes are those of the published data; "" otherwise.
    """

    cost: Estimate
    tags: int
    texts: int
    photos: int
    captions: int
    assumed: str

    @property
    def parse_seconds(self) -> float:
        """Time to read rows and parse captions once, on this machine."""
        return build_seconds(self.photos, self.captions)

    @property
    def stored_bytes(self) -> int:
        """Approximate size of the stored rows and tag columns."""
        return 150 * self.photos + 70 * self.captions


def plan(recipe: Recipe, data: Path | str | None, *, tag_list: Path | None = None) -> DryRun:
    """Estimate the cost of a recipe; arguments as in `Run`.

    Raises:
        AnytagError: the recipe trains on cached features, the data cannot be read, or the network
            configuration is invalid.
    """
    if recipe.features is not None:
        raise AnytagError(
            "--dry-run supports runs on photos, and this one trains on cached features; its times are in "
            "docs/how-to/train.md"
        )
    listed = read_tag_list(tag_list) if tag_list else None
    if recipe.start:
        recipe = adopt_network(recipe, read_start(Path(recipe.start)))
    rows = Annotations.cached(data, tag_list=listed.ids if listed else ()) if data else None
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
    recipe = resolve_network(recipe, width=width)
    check_network(recipe, text_width=width)
    cost = estimate(recipe, tags=tags, texts=texts, text_width=width, photos=photos)
    assumed = "" if data else " (the published numbers; give --data)"
    return DryRun(cost, tags, texts, photos, captions, assumed)
