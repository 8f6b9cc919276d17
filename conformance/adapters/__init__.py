"""Adapters: a template to copy, sftref's own trainers, and `examples/` for trainers that others wrote."""
