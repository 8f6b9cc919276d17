"""The kit under pytest: options, fixtures, one result for each check, the summary."""
