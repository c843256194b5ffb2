"""Label files of other tools, one file a format.

Start with `reading.py` and `writing.py`, the tables of all formats.
"""
