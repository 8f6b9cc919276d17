"""Laws of a trainer under test (rungs 4 to 10).

Each test_*.py has its laws in words in a TOML file beside it.
"""
