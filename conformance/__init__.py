"""The conformance kit: is this machine, this JAX, this trainer computing distributed training right?"""
