"""Judge a bundle the way that it is served: both stages, other policies, edited images. Start with `judge.py`."""
