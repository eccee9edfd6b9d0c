"""The command line's way to the outer ring."""

from anytag.models.outer import outer

__all__ = ["outer"]
