"""Train the miniature GroundingDINO. Start with `train.py`."""
