"""The same application on a Ray cluster, past one machine. Start with `application.py`, and `there.py` for stages that are elsewhere."""
