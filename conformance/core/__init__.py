"""Laws, checks, comparisons, results, settings: the types that all other parts of the kit use."""
