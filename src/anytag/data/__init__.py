"""Image-text data for training and evaluation."""
