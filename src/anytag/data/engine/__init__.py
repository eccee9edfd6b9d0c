"""RAM's data engine: generate, clean, describe; on many machines."""
