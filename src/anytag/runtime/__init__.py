"""Runtimes that run a model: onnxruntime for graphs, torch for weights."""
