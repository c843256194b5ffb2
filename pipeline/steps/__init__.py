"""Steps that need more than one folder: packaging, the moderator, the baseline. Start with `package.py`."""
