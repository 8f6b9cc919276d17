"""Times -> PASS, FAIL or AMBIGUOUS: intervals, exact counts, stored runs."""
