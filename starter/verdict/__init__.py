"""Train the miniature language model of Stage 2. Start with `train.py`."""
