"""The verification kit: what a trainer is held against, and the border where it plugs in.

So far the border (`adapter`) and the oracle (`oracle`, `masks`, `updates`); the ladder of laws builds on them.
"""
