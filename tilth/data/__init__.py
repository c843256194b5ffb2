"""The dataset on disk. Start with `dataset.py`."""
