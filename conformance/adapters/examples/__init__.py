"""Adapters for trainers that other people wrote."""
