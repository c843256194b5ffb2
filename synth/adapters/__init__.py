"""Teach a diffusion model a look or a thing. Start with `training.py`, the step; `lesson.py` is what is learned from."""
