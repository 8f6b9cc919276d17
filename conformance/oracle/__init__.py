"""One training step in NumPy float64: the right answer, the cases and values it is computed for, and the bounds."""
