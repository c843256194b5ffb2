"""Talk to a Label Studio server: tasks out, answers in.

Start with `client.py`; how an answer is read is `answers.py`.
"""
