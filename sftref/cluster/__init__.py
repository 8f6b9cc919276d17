"""Devices and processes: which of them a run uses, how they are joined, and what happens when one is lost."""
