"""A library of photos in a database: what is in folders, what a model saw there, what the user says of it."""
