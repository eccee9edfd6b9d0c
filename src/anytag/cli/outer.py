"""The command line's way to the outer ring."""

from anytag._optional import outer

__all__ = ["outer"]
