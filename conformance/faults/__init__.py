"""Seeded faults, equivalent changes, and the kill matrix, which shows that laws see the first and not the second."""
