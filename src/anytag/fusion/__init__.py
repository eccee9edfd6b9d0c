"""Score how well a sentence fits a photo: scores of its terms and of its embedding, fused and calibrated.

Used by `Retriever` and by the search of `anytag.library`, where decisions of the user are evidence too.
"""
