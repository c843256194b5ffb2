"""Language models that judge texts, and learn to. Start with `judging.py`; `teaching.py` trains them, `routing.py` says when not to ask."""
