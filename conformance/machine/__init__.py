"""This computer: its facts and problems, how JAX starts on it, and which settings work around a fault."""
