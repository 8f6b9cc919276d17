"""What laws share: operators, trainer checks, lowered text, process groups."""
