"""Fine-tune models on a dataset. Start with `fine_tune.py`, which is all but the loss."""
