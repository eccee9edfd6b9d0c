"""Build an untrained student from a recipe."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from anytag.errors import ModelError
from anytag.text_encoders.queries import Prompts
from anytag.text_encoders.wordpiece import WordPieces
from anytag.torch.nn.configs import BUILD_ERRORS, NetworkConfig, SwinConfig, VitConfig
from anytag.torch.nn.network import TagNetwork
from anytag.torch.nn.query_modules import LearnedQueries
from anytag.torch.nn.timm_backbone import TimmBackbone
from anytag.torch.training.recipes import Recipe
from anytag.torch.training.student import PROMPT_LENGTH, FixedQueries, Student, WordQueries
from anytag.torch.training.terms import terms_of


def resolve_network(recipe: Recipe, *, width: int, pieces: WordPieces | None = None) -> Recipe:
    """The recipe with the network dimensions that follow from objective, backbone, texts and wordpieces.

    Args:
        width: width of the tags' text vectors.
        pieces: wordpieces of captions.
    """
    config = recipe.network
    if not recipe.objective.captions:
        config = replace(config, captions=None)
    if pieces is not None and config.captions is not None:
        config = replace(config, captions=replace(config.captions, words=len(pieces)))
    if pieces is not None and config.alignment is not None:
        config = replace(config, alignment=replace(config.alignment, words=len(pieces)))
    if not config.projected:
        config = replace(config, width=backbone_width(recipe))
    elif config.cross is not None and config.queries != "learned":
        config = replace(config, width=width)  # rows are text vectors without projection
    return replace(recipe, network=config)


def make_student(
    recipe: Recipe, *, tags: int, rows: Tensor | None, pieces: WordPieces | None = None
) -> Student:
    """Build the untrained student.

    Args:
        recipe: the recipe, after `resolve_network`.
        tags: K.
        rows: text vectors K×P×W of the tags; None for learned queries.
        pieces: wordpieces of captions.

    Raises:
        ModelError: the network configuration is invalid.
    """
    config, network = recipe.network, make_network(recipe)
    queries: nn.Module
    if rows is None:
        assert config.cross is not None  # only the cross decoder has learned queries
        queries = LearnedQueries(tags, config.cross.hidden)
    elif config.cross is None:
        queries = WordQueries(rows, config.width, hidden=config.text_hidden)
    else:
        queries = FixedQueries(rows, recipe.precision)
    prompt = PROMPT_LENGTH
    if pieces is not None and config.captions is not None:
        prompt = len(pieces.prompt(config.captions.prompt))
    objective = recipe.objective
    return Student(
        network, queries, objective, terms_of(objective), sampled=recipe.sampled_tags, prompt_length=prompt
    )


def make_network(recipe: Recipe) -> TagNetwork:
    """Build the network of a recipe with random weights.

    Raises:
        ModelError: the network configuration is invalid.
    """
    try:
        backbone = TimmBackbone(recipe.backbone, size=recipe.network.size) if recipe.backbone else None
        return TagNetwork(recipe.network, backbone)
    except BUILD_ERRORS as error:
        raise build_error(error) from error


def build_error(error: Exception) -> ModelError:
    """A readable error for a library's error about an invalid network configuration."""
    why = str(error).partition("\n")[0] or type(error).__name__
    return ModelError(f"the values of network.* are invalid together ({why}): use the recipe's defaults")


def backbone_width(recipe: Recipe) -> int:
    """Width of the backbone's tokens before projection."""
    backbone = recipe.network.backbone
    if recipe.backbone:
        return TimmBackbone(recipe.backbone, size=recipe.network.size).width
    if isinstance(backbone, SwinConfig):
        return int(backbone.width * 2 ** (len(backbone.depths) - 1))
    return backbone.width if isinstance(backbone, VitConfig) else recipe.network.width


def is_learned(config: NetworkConfig) -> bool:
    """Whether queries are learned instead of made from text."""
    return config.cross is not None and config.queries == "learned"


def prompts_of(recipe: Recipe, config: NetworkConfig) -> Prompts:
    """Kind of a tag's prompts, in training and for custom tags: as in RAM++ or RAM, or only its words."""
    if config.cross is None or config.queries == "learned":
        return "words"
    if config.queries == "descriptions":
        return "descriptions"
    # With a static table, the words of the templates would dominate the vectors.
    return "templates" if recipe.clip else "words"
