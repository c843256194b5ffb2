"""What happens to a sound on its way to a listener. Start with `effects.py`."""
