"""The folder that is served, every file of it checked. Start with `bundle.py`."""
