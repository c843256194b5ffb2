"""Train the miniature sentence encoder, which finds texts that say the same. Start with `train.py`."""
