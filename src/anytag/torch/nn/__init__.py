"""Torch modules: backbones, tag decoders, query modules, caption and alignment heads."""
