"""The vectors of a corpus on disk, and search among them by FAISS. Start with `store.py`, then `index.py`."""
