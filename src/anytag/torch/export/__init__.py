"""Export to ONNX: graphs, parity checks, quantisation."""
