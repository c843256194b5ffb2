"""Corpora: images that are not ours yet, wherever they lie.

Start with `corpus.py`, what a corpus is, then `opening.py`.
"""
