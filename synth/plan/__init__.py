"""Which images are missing, and the words to ask for them. Start with `survey.py`, then `prompts.py`."""
