"""From counted names to a vocabulary: merging, review and report."""
