"""Calibration of probabilities and thresholds on labelled photos, for any model and without torch."""
