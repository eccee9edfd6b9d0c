"""Models as data: what a folder says (`card`), whether it is true (`folder`), where it lies (`hub`), and
how it runs (`onnx`).

Importing this package does not import onnxruntime; `anytag.runtime.onnx` does when it first loads a graph.
"""
