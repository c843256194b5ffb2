"""Find images."""
