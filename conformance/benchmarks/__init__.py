"""Rung 10: the speed of this machine and of trainers on it, and whether either has become slower."""
