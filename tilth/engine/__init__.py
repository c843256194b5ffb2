"""Recipes, steps, and the executors that run them. Start with `steps.py`, then `work.py`; the training loop is `fit.py`."""
