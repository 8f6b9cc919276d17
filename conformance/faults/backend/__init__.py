"""Faults seeded below every caller: in what JAX compiles, copies, derives and keeps."""
