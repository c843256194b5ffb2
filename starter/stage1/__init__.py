"""Pre-train the miniature classifier and detector. Start with `classifier.py`."""
