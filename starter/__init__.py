"""A small world with known truth, and miniature checkpoints of the real architectures trained on it."""
