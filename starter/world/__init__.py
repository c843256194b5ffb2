"""The drawn world: things, grounds, words, and its files on disk. Start with `scene.py`."""
