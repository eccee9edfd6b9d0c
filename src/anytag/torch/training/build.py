"""A recipe's numbers -> an untrained network."""

from __future__ import annotations

from anytag.errors import ModelError
from anytag.text_encoders.queries import Prompts
from anytag.torch.nn.configs import NetworkConfig, SwinConfig, VitConfig
from anytag.torch.nn.network import TagNetwork
from anytag.torch.nn.timm_backbone import TimmBackbone
from anytag.torch.training.recipes import TrainRecipe

MISFITS = (
    RuntimeError, ValueError, TypeError, AssertionError, IndexError, ArithmeticError, MemoryError
)  # fmt: skip
"""What libraries raise for numbers that make no network."""


def make_network(recipe: TrainRecipe, config: NetworkConfig) -> TagNetwork:
    """With random weights.

    Raises:
        ModelError: its numbers do not fit together; says which were given.
    """
    try:
        backbone = TimmBackbone(recipe.backbone, size=config.size) if recipe.backbone else None
        return TagNetwork(config, backbone)
    except (
        RuntimeError,
        ValueError,
        TypeError,
        AssertionError,
        IndexError,
        ArithmeticError,
        MemoryError,
    ) as error:
        raise misfit(error) from error


def misfit(error: Exception) -> ModelError:
    """What a library says of numbers that make no network, as an error for people."""
    why = str(error).partition("\n")[0] or type(error).__name__
    return ModelError(f"the numbers of network.* make no network ({why}): give the recipe's own, which fit")


def backbone_width(recipe: TrainRecipe) -> int:
    """Of the backbone's own tokens."""
    backbone = recipe.network.backbone
    if recipe.backbone:
        return TimmBackbone(recipe.backbone, size=recipe.network.size).width
    if isinstance(backbone, SwinConfig):
        return int(backbone.width * 2 ** (len(backbone.depths) - 1))
    return backbone.width if isinstance(backbone, VitConfig) else recipe.network.width


def prompts_of(recipe: TrainRecipe, config: NetworkConfig) -> Prompts:
    """What is said of a tag, in training and when a user asks: as RAM++ and RAM have it, or its words."""
    if config.cross is None or config.queries == "learned":
        return "words"
    if config.queries == "descriptions":
        return "descriptions"
    return "templates" if recipe.clip else "words"  # a static table hears little but the templates
