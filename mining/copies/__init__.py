"""Recognise copies: perceptual hashes, the hash gate, near-duplicates and edits.

Start with `hash.py`; the step that drops is `dedup.py`.
"""
