"""A compact reference of data-parallel BERT fine-tuning in JAX, and the conformance kit built on it."""

__version__ = "0.1.0"
