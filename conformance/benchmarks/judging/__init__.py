"""Times -> PASS, FAIL or AMBIGUOUS."""
