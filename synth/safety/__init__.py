"""What is never generated, whose consent it needs, and how a generated image says what it is.

Start with `refusals.py`.
"""
