"""Rung 10: how fast this machine computes what a trainer computes, and whether that got slower."""
