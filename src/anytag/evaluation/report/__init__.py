"""What was measured, as JSON, Markdown and a page."""
