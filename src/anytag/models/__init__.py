"""Model folders as data: the card (`card`), verified files (`folder`), names (`registry`), downloads (`hub`).

Importing this package does not import onnxruntime; `anytag.runtime.onnx` does when it first loads a graph.
"""
