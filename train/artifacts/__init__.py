"""Trained models on disk, and as ONNX graphs. Start with `artifact.py`."""
