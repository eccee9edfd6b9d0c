"""A model folder with torch weights -> the network, from the card's numbers alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from timm.models.swin_transformer import SwinTransformerBlock, WindowAttention, get_relative_position_index
from torch import Tensor

from anytag._io import atomic_write
from anytag.errors import CardError, ModelError
from anytag.models import card as cards
from anytag.models.card import Card
from anytag.models.folder import WEIGHTS as WEIGHTS
from anytag.models.folder import ModelFolder
from anytag.torch.nn.configs import NetworkConfig
from anytag.torch.nn.folded_decoder import FoldedDecoder
from anytag.torch.nn.network import TagNetwork

QUERIES = "queries.safetensors"
CAPTIONS, ALIGNMENT = "captions.safetensors", "alignment.safetensors"
_HEAD_FILES = {"captions": CAPTIONS, "alignment": ALIGNMENT}
DECODER = "decoder.safetensors"  # of a folder that is served by its graphs: to learn queries against
_HEADS = "heads"
_ELSEWHERE = ("size", "mean", "std", "width")  # in the card's other fields


def network_numbers(config: NetworkConfig) -> dict[str, Any]:
    """The card's `network`: what its other fields do not say of the configuration."""
    return {name: value for name, value in asdict(config).items() if name not in _ELSEWHERE}


def read_config(card: Card) -> NetworkConfig:
    """The configuration that a card tells.

    Raises:
        CardError: it tells none, or one with a missing, unknown or wrong field.
    """
    if not card.network:
        raise CardError(f"{card.name} has no torch network: its card lacks `network`")
    image = card.image
    facts = {"size": image.size, "mean": list(image.mean), "std": list(image.std), "width": card.width}
    config: NetworkConfig = cards.record(NetworkConfig, {**_plain(card.network), **facts}, "network")
    return config


def empty_network(config: NetworkConfig) -> TagNetwork:
    """The network without weights: its parameters take no memory, its buffers are what they must be."""
    with init_empty_weights(include_buffers=False):
        network = TagNetwork(config)
    for module in network.modules():  # timm makes these beside its parameters
        if isinstance(module, WindowAttention):
            module.relative_position_index = get_relative_position_index(*module.window_size)
        elif isinstance(module, SwinTransformerBlock):
            module.register_buffer("attn_mask", module.get_attn_mask(), persistent=False)
    return network


def load_network(
    folder: str | Path | ModelFolder, *, captions: bool = True, alignment: bool = True
) -> TagNetwork:
    """The network of a model folder, on the CPU in float32, set to evaluation.

    Args:
        folder: verified when given as a path.
        captions: load the caption head too, where there is one.
        alignment: load the alignment heads too, where there are some.

    Raises:
        ModelError: the folder or its card is wrong, or its weights are not the network's.
    """
    built = StoredNetwork(folder if isinstance(folder, ModelFolder) else ModelFolder.open(folder))
    for wanted, name in ((captions, "captions"), (alignment, "alignment")):
        if wanted:
            built.load_head(name)
    return built.network


class StoredNetwork:
    """A folder's network, built once: weights of a head are read when the head is wanted.

    Attributes:
        network: on the CPU in float32, set to evaluation; its heads are None until they are loaded.

    Raises:
        ModelError: as for `load_network`.
    """

    def __init__(self, folder: ModelFolder) -> None:
        self._folder = folder
        self.network = network = empty_network(read_config(folder.card)).eval()
        heads = {"captions": network.captions, "alignment": network.alignment}
        self._heads = {name: head for name, head in heads.items() if head is not None}
        network.captions = network.alignment = None
        self._fill(WEIGHTS)

    def load_head(self, name: str) -> None:
        """Gives the network its "captions" or "alignment", where it has some."""
        if (head := self._heads.pop(name, None)) is not None:
            setattr(self.network, name, head)
            self._fill(_HEAD_FILES[name])

    def _fill(self, file: str) -> None:
        """Gives the network's parameters the values of a file; none may be left without."""
        weights = {name: tensor.float() for name, tensor in stored(self._folder, file).items()}
        unknown = self.network.load_state_dict(weights, strict=False, assign=True).unexpected_keys
        missing = [name for name, parameter in self.network.named_parameters() if parameter.is_meta]
        if wrong := [*unknown, *missing]:
            raise ModelError(
                f"{self._folder.path}: its weights do not fit its card's network: {', '.join(wrong[:8])}"
            )


def load_queries(folder: str | Path | ModelFolder) -> Tensor:
    """Rows of the trained tags, K×P×R, memory-mapped, in the type they are stored in.

    R is the decoder's row width: that of the text vectors, or for learned queries 2H + 1.

    Raises:
        ModelError: the folder has no such table.
    """
    model = folder if isinstance(folder, ModelFolder) else ModelFolder.open(folder)
    rows = stored(model, QUERIES).get("rows")
    if rows is None or not rows.is_floating_point():
        raise ModelError(f"{model.path / QUERIES} holds no floating-point `rows`")
    return rows


def save_decoder(decoder: FoldedDecoder, path: Path) -> None:
    """Writes a folder's decoder.safetensors, in float16; of `mini` that changes no logit by 2e-4."""
    weights = {name: weight.half().contiguous() for name, weight in decoder.state_dict().items()}
    with atomic_write(path) as draft:
        save_file(weights, draft, metadata={_HEADS: str(decoder.heads)})


def load_decoder(model: ModelFolder) -> FoldedDecoder:
    """The tag decoder of a folder that is served by its graphs, in float32, for evaluation.

    Raises:
        ModelError: the folder has none, or what is there is none.
    """
    if DECODER not in model:
        raise ModelError(
            f"{model.path} has no {DECODER}, which queries are learned against: give mini, or what this "
            "version's anytag train made of a small recipe"
        )
    weights, path = stored(model, DECODER), model.file(DECODER)
    with safe_open(path, framework="pt") as file:
        heads = (file.metadata() or {}).get(_HEADS, "")
    try:
        decoder = FoldedDecoder(len(weights["key.weight"]), heads=int(heads))
        decoder.load_state_dict({name: weight.float() for name, weight in weights.items()})
    except (KeyError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path} holds no tag decoder ({error}); get the model again") from error
    return decoder.eval()


def stored(model: ModelFolder, name: str) -> dict[str, Tensor]:
    """Tensors of one of the folder's files, memory-mapped.

    Raises:
        ModelError: the folder has no such file, or it cannot be read.
    """
    path = model.file(name)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ModelError(f"{path} cannot be read: {error}. Get the model again") from error


def _plain(value: Any) -> Any:
    """As JSON has it: lists, where `asdict` leaves tuples."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, tuple | list) else value
