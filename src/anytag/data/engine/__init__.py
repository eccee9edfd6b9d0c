"""RAM's data engine: generate, clean and describe, also on a cluster."""
