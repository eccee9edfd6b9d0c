"""Torch networks: backbones, the tag decoder, its queries."""
