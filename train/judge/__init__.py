"""Calibrate, evaluate and gate trained models. Start with `evaluate.py`."""
