"""Published checkpoints: their weight names and ours, read, checked, converted."""
