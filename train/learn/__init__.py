"""Fine-tune models on a dataset. Start with `classifier.py`; the loop that all share is `loop.py`."""
