"""Take in sounds with the labels that tables have for them, and write ours. Start with `importing.py`."""
