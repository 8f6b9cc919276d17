"""Logits -> a trained model: loss, metrics, optimizer, the step, the loop, checkpoints and records."""
