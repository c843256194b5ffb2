"""Recognise somebody from face, body, clothing and scene together. Start with `cues.py`, then `train.py`, the step."""
