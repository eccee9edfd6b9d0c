"""How well a sentence fits a photo: the tags that it names and its vector, fused into one calibrated score.

The one place for it: `Retriever` ranks photos that it is given by this, and `anytag.library` those of a
database, where what people said is evidence, too.
"""
