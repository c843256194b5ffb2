"""Language models that judge texts, and learn to.

Start with `judging.py`; `teaching.py` trains them on `lessons.py`, `routing.py` says when not to ask.
"""
