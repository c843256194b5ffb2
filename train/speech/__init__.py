"""Speech models learn which categories are heard. Start with `learning.py`; `body.py` is what is tuned, `measuring.py` judges it."""
