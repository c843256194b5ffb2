"""A world of sounds, spoken phrases and events with noise, and a miniature that listens. Start with `clips.py`."""
