"""Seeded faults, equivalent changes, and the kill matrix that proves the laws see the first and not the second."""
