"""Laws of the machine (rungs 0 to 5): no trainer is needed.

Each test_*.py has its laws in words in a TOML file beside it.
"""
