"""Evaluation reports as JSON, Markdown and HTML."""
