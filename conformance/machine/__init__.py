"""This computer: its facts, what is wrong with them, how JAX starts here, and which settings work around a fault."""
