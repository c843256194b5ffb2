"""Find boxes by words: GroundingDINO behind the step `ground`, without training. Start with `ground.py`."""
