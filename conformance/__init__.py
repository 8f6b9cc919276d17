"""The verification kit: laws of distributed training, the oracle they rest on, and one verdict. Start at README.md."""
