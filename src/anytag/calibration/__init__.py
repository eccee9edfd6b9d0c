"""Probabilities and thresholds, fitted to photos whose tags are known: of any model, without torch."""
