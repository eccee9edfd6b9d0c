"""Layer 3: networks, checkpoints, export and training, in torch."""
