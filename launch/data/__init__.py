"""Text to train on: CPython's own help topics, prepared once, read as batches of bytes."""
