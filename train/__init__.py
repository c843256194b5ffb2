"""Learn from images."""
