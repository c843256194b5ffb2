"""The report of a run, one HTML file. Start with `page.py`, which lists its sections."""
