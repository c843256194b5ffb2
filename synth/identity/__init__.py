"""Give a person in a training image the face of somebody who consented. Start with `swap.py`, the step, then `parents.py`."""
