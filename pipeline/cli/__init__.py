"""The `tilth` command. Start with `main.py`; the commands that are one step on a dataset are in `steps.py`."""
