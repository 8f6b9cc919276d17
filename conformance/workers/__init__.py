"""Child processes: one protocol for all of them, their start and end, and which process runs which checks."""
