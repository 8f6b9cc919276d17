"""Laws, checks, comparisons, results, settings: what every other part of the kit speaks in."""
