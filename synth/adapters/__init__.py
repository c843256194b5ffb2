"""Teach a diffusion model a look or a thing. Start with `lora.py`."""
