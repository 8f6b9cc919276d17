"""One training step in NumPy float64, the cases and values it is run on, and the bounds that follow from it."""
