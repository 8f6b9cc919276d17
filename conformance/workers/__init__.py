"""Child processes: how they are started, watched, told from one another, and ended."""
