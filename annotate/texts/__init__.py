"""Take in texts with the labels that other tools have for them, and write ours. Start with `importing.py`; `rows.py` reads the files."""
