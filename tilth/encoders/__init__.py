"""Models that turn images and texts into vectors. Start with `families.py`."""
