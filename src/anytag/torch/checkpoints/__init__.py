"""Read, check and convert published checkpoints; load the networks of model folders."""

from anytag.torch.checkpoints.convert import Options, convert, convert_back
from anytag.torch.checkpoints.load import load_network, load_queries

__all__ = ["Options", "convert", "convert_back", "load_network", "load_queries"]
