"""Adapters for other Python libraries; each module imports only its own library.

HTTP APIs for other programs (PhotoPrism, Label Studio) are in `anytag.server`; for batches of Ray Data, Spark
and datasets use `anytag.scale.mapping.Tag`.
"""
