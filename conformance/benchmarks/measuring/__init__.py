"""Benchmarks, calibration kernels, rounds."""
