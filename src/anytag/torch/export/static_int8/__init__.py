"""Static int8 quantisation of `mini`: calibrated ranges, rounded weights, the graph."""
