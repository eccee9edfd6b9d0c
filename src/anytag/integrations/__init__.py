"""anytag in the shapes of other Python tools; each module needs its tool, and nothing else is imported.

What speaks to other programs over HTTP (PhotoPrism, Label Studio) is in `anytag.server`, and what maps over
batches of Ray Data, Spark and datasets is `anytag.scale.mapping.Tag`.
"""
