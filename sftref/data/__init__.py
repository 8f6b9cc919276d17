"""Text -> batches: tasks, examples, tokens, batches, packing, and the bundled pairs."""
