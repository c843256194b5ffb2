"""Label images."""
