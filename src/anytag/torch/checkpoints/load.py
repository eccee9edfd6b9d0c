"""Build the network of a model folder with torch weights, from the numbers in its card."""

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
from anytag.torch.nn.configs import BUILD_ERRORS, NetworkConfig
from anytag.torch.nn.folded_decoder import FoldedDecoder
from anytag.torch.nn.network import TagNetwork

QUERIES = "queries.safetensors"
CAPTIONS, ALIGNMENT = "captions.safetensors", "alignment.safetensors"
_HEAD_FILES = {"captions": CAPTIONS, "alignment": ALIGNMENT}
DECODER = "decoder.safetensors"  # of a folder that is run by its graphs: to train queries with
_HEADS = "heads"
_IN_OTHER_FIELDS = ("size", "mean", "std", "width")  # of the card


def network_fields(config: NetworkConfig) -> dict[str, Any]:
    """The card's `network` field: the part of the configuration that its other fields do not hold."""
    return {name: value for name, value in asdict(config).items() if name not in _IN_OTHER_FIELDS}


def read_config(card: Card) -> NetworkConfig:
    """The network configuration in a card.

    Raises:
        CardError: there is none, or it has a missing, unknown or invalid field.
    """
    if not card.network:
        raise CardError(f"{card.name} has no torch network: its card lacks `network`")
    image = card.image
    facts = {"size": image.size, "mean": list(image.mean), "std": list(image.std), "width": card.width}
    config: NetworkConfig = cards.record(NetworkConfig, {**_with_lists(card.network), **facts}, "network")
    return config


def empty_network(config: NetworkConfig) -> TagNetwork:
    """The network on the meta device: parameters take no memory, buffers have their values."""
    with init_empty_weights(include_buffers=False):
        network = TagNetwork(config)
    for module in network.modules():  # timm creates these buffers on the device of the parameters
        if isinstance(module, WindowAttention):
            module.relative_position_index = get_relative_position_index(*module.window_size)
        elif isinstance(module, SwinTransformerBlock):
            module.register_buffer("attn_mask", module.get_attn_mask(), persistent=False)
    return network


def load_network(
    folder: str | Path | ModelFolder, *, captions: bool = True, alignment: bool = True
) -> TagNetwork:
    """Load the network of a model folder: on the CPU, in float32, in evaluation mode.

    Args:
        folder: verified when given as a path.
        captions: load the caption head too, if there is one.
        alignment: load the alignment heads too, if there are any.

    Raises:
        ModelError: the folder or its card is invalid, or its weights do not fit the network.
    """
    stored = StoredNetwork(folder if isinstance(folder, ModelFolder) else ModelFolder.open(folder))
    for wanted, name in ((captions, "captions"), (alignment, "alignment")):
        if wanted:
            stored.load_head(name)
    return stored.network


class StoredNetwork:
    """A folder's network; the weights of its heads are loaded on demand.

    Attributes:
        network: on the CPU, in float32, in evaluation mode; its heads are None until they are loaded.

    Raises:
        ModelError: as for `load_network`.
    """

    def __init__(self, folder: ModelFolder) -> None:
        self._folder = folder
        config = read_config(folder.card)
        try:
            self.network = network = empty_network(config).eval()
        except BUILD_ERRORS as error:
            raise ModelError(f"{folder.path}: the card's network cannot be built ({error})") from error
        heads = {"captions": network.captions, "alignment": network.alignment}
        self._heads = {name: head for name, head in heads.items() if head is not None}
        network.captions = network.alignment = None
        self._fill(WEIGHTS)

    def load_head(self, name: str) -> None:
        """Load the network's "captions" or "alignment" head, if it has one."""
        if (head := self._heads.pop(name, None)) is not None:
            setattr(self.network, name, head)
            self._fill(_HEAD_FILES[name])

    def _fill(self, file: str) -> None:
        """Load a file of weights; afterwards every parameter of the network must have its values."""
        weights = {name: tensor.float() for name, tensor in load_tensors(self._folder, file).items()}
        try:
            unknown = self.network.load_state_dict(weights, strict=False, assign=True).unexpected_keys
        except RuntimeError as error:  # of another shape
            raise ModelError(
                f"{self._folder.path}: the weights do not fit the network in its card ({error})"
            ) from error
        missing = [name for name, parameter in self.network.named_parameters() if parameter.is_meta]
        if wrong := [*unknown, *missing]:
            raise ModelError(
                f"{self._folder.path}: the weights do not fit the network in its card: {', '.join(wrong[:8])}"
            )


def load_queries(folder: str | Path | ModelFolder) -> Tensor:
    """Query rows of the trained tags, K×P×R, memory-mapped, in their stored dtype.

    R is the decoder's row width: that of the text vectors, or 2H + 1 for learned queries.

    Raises:
        ModelError: the folder has no such table.
    """
    model = folder if isinstance(folder, ModelFolder) else ModelFolder.open(folder)
    rows = load_tensors(model, QUERIES).get("rows")
    if rows is None or not rows.is_floating_point():
        raise ModelError(f"{model.path / QUERIES} holds no floating-point `rows`")
    return rows


def save_decoder(decoder: FoldedDecoder, path: Path) -> None:
    """Write a folder's decoder.safetensors, in float16, which changes logits of `mini` by less than 2e-4."""
    weights = {name: weight.half().contiguous() for name, weight in decoder.state_dict().items()}
    with atomic_write(path) as draft:
        save_file(weights, draft, metadata={_HEADS: str(decoder.heads)})


def load_decoder(model: ModelFolder) -> FoldedDecoder:
    """Load the tag decoder of a folder that is run by its graphs, in float32, in evaluation mode.

    Raises:
        ModelError: the folder has no decoder.safetensors, or it holds no decoder.
    """
    if DECODER not in model:
        raise ModelError(
            f"{model.path} has no {DECODER}, which is needed to train queries: give mini, or a folder that "
            "this version's anytag train wrote for a small recipe"
        )
    weights, path = load_tensors(model, DECODER), model.file(DECODER)
    with safe_open(path, framework="pt") as file:
        heads = (file.metadata() or {}).get(_HEADS, "")
    try:
        decoder = FoldedDecoder(len(weights["key.weight"]), heads=int(heads))
        decoder.load_state_dict({name: weight.float() for name, weight in weights.items()})
    except (KeyError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path} holds no tag decoder ({error}); get the model again") from error
    return decoder.eval()


def load_tensors(model: ModelFolder, name: str) -> dict[str, Tensor]:
    """The tensors of one file of a model folder, memory-mapped.

    Raises:
        ModelError: the folder has no such file, or it cannot be read.
    """
    path = model.file(name)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ModelError(f"{path} cannot be read: {error}. Get the model again") from error


def _with_lists(value: Any) -> Any:
    """The value with lists instead of tuples, as in JSON."""
    if isinstance(value, Mapping):
        return {key: _with_lists(item) for key, item in value.items()}
    return [_with_lists(item) for item in value] if isinstance(value, tuple | list) else value
