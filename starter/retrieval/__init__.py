"""Train the miniature BLIP-2. Start with `train.py`."""
