"""Train the miniature Stable Diffusion, its ControlNet, its LoRA and their judge. Start with `train.py`."""
