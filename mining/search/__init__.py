"""Find the images of a corpus that are worth a look. Start with `mine.py`; how images are ordered is `rank.py`."""
