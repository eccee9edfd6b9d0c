"""What runs a model: graphs in onnxruntime, and the one way to open either runtime."""
