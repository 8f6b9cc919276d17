"""One run of `verify`: schedule, deadlines, workarounds, cached programs."""
