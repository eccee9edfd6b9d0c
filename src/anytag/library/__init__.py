"""A library: a database of the photos of folders, their tags by a model, and the user's decisions."""
