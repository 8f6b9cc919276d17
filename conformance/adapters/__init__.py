"""Adapters: a template to copy, the one of sftref's own trainers, and `examples/` of trainers that others wrote."""
