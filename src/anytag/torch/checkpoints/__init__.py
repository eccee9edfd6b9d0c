"""Published checkpoints: their weight names and ours, read, checked, converted."""

from anytag.torch.checkpoints.convert import Options, convert, convert_back
from anytag.torch.checkpoints.load import load_network, load_queries

__all__ = ["Options", "convert", "convert_back", "load_network", "load_queries"]
