"""Pages to look through a dataset. Start with `page.py`."""
