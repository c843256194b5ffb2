"""Measure samples and decide which stay, and into which split they go. Start with `filter.py`."""
