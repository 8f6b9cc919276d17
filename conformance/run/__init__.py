"""One verification: schedule, deadlines, workarounds, cached programs."""
