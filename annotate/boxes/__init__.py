"""Clean up, fuse and draw boxes, and turn a detector's boxes into claims.

Start with `clean.py`; the step that fuses is `fuse.py`.
"""
