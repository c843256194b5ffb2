"""Stable Diffusion: from a plan to pictures. Start with `generate.py`, the step; `settings.py` has its groups of settings."""
