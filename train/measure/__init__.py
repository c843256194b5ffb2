"""What predictions are, and how good they are. Start with `metrics.py`."""
