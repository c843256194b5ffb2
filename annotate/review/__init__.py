"""Choose what people look at, ask them, and count what it costs.

Start with `review.py`; which images are asked about is `queue.py`.
"""
