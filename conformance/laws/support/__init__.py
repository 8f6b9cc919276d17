"""What laws share: when a law runs, operators and their exact values, trainer checks, lowered text, process groups."""
