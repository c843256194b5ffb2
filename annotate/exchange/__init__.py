"""Take in labelled images of other tools, and write ours for them. Start with `importing.py` and `exporting.py`."""
