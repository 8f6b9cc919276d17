"""Times of the hosts, and which of them are slower than the others."""
