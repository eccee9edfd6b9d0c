"""The outer ring: networks, checkpoints, export and training, in torch."""
