"""A recipe's numbers -> an untrained student."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from anytag.errors import ModelError
from anytag.text_encoders.queries import Prompts
from anytag.text_encoders.wordpiece import WordPieces
from anytag.torch.nn.configs import NetworkConfig, SwinConfig, VitConfig
from anytag.torch.nn.network import TagNetwork
from anytag.torch.nn.query_modules import LearnedQueries
from anytag.torch.nn.timm_backbone import TimmBackbone
from anytag.torch.training.recipes import Recipe
from anytag.torch.training.student import PROMPT_LENGTH, FixedQueries, Student, WordQueries
from anytag.torch.training.terms import terms_of

MISFITS = (
    RuntimeError, ValueError, TypeError, AssertionError, IndexError, ArithmeticError, MemoryError
)  # fmt: skip
"""What libraries raise for numbers that make no network."""


def fitted_to(recipe: Recipe, *, width: int, pieces: WordPieces | None = None) -> Recipe:
    """With the network's numbers that objective, backbone, text width and wordpieces decide.

    Args:
        width: of the tags' text vectors.
        pieces: of captions.
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
        config = replace(config, width=width)  # rows are text vectors as they are
    return replace(recipe, network=config)


def make_student(
    recipe: Recipe, *, tags: int, rows: Tensor | None, pieces: WordPieces | None = None
) -> Student:
    """The untrained student.

    Args:
        recipe: with its network fitted.
        tags: K.
        rows: text vectors K×P×W of the tags; None where queries are learned.

    Raises:
        ModelError: the network's numbers do not fit together.
    """
    config, network = recipe.network, make_network(recipe)
    queries: nn.Module
    if rows is None:
        assert config.cross is not None  # no other decoder takes learned rows
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
    """With random weights.

    Raises:
        ModelError: its numbers do not fit together; says which were given.
    """
    try:
        backbone = TimmBackbone(recipe.backbone, size=recipe.network.size) if recipe.backbone else None
        return TagNetwork(recipe.network, backbone)
    except MISFITS as error:
        raise misfit(error) from error


def misfit(error: Exception) -> ModelError:
    """What a library says of numbers that make no network, as an error for people."""
    why = str(error).partition("\n")[0] or type(error).__name__
    return ModelError(f"the numbers of network.* make no network ({why}): give the recipe's own, which fit")


def backbone_width(recipe: Recipe) -> int:
    """Of the backbone's own tokens."""
    backbone = recipe.network.backbone
    if recipe.backbone:
        return TimmBackbone(recipe.backbone, size=recipe.network.size).width
    if isinstance(backbone, SwinConfig):
        return int(backbone.width * 2 ** (len(backbone.depths) - 1))
    return backbone.width if isinstance(backbone, VitConfig) else recipe.network.width


def is_learned(config: NetworkConfig) -> bool:
    """Whether queries are learned, rather than made of text."""
    return config.cross is not None and config.queries == "learned"


def prompts_of(recipe: Recipe, config: NetworkConfig) -> Prompts:
    """What is said of a tag, in training and when a user asks: as RAM++ and RAM have it, or its words."""
    if config.cross is None or config.queries == "learned":
        return "words"
    if config.queries == "descriptions":
        return "descriptions"
    return "templates" if recipe.clip else "words"  # a static table hears little but the templates
