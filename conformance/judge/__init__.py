"""Results -> verdict and diagnosis."""
