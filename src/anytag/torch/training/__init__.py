"""Training: losses, cached features, the loop, calibration."""
