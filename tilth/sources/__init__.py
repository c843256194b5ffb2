"""What lies in folders and archives that others made, listed for mining and import alike. Start with `walk.py`."""
