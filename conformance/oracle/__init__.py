"""One training step in NumPy float64, the cases and values it is computed for, and bounds for results under test."""
