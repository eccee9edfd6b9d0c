"""Text encoders: the common interface, and the static table of the embedded model."""

from __future__ import annotations

from anytag.text_encoders.queries import TextEncoder
from anytag.text_encoders.static import StaticTextEncoder

__all__ = ["StaticTextEncoder", "TextEncoder"]
