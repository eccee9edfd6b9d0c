"""`mini` in int8: calibrated ranges, rounded weights, the graph."""
