"""Look at what was generated before it is kept. Start with `adherence.py`."""
