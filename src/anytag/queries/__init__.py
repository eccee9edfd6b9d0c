"""From what users ask to scores: requests are parsed, become queries, and are scored."""
