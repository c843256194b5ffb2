"""Drawn people that do not exist. Start with `people.py`, what somebody looks like, then `albums.py`, what pictures show of them."""
