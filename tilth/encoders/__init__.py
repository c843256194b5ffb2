"""Models that turn images and texts into vectors, and what makes one score of several. Start with `families.py`."""
