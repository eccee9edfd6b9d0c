"""Torch to ONNX: graphs, parity, precision."""
