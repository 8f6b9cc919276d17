"""What is timed, and how: benchmarks, calibration kernels, rounds."""
