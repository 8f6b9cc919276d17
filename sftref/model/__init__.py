"""Batch -> logits, and a Hugging Face checkpoint <-> our parameters."""
