"""The two stages and the cascade that joins them. Start with `cascade.py`."""
