"""Tilth: a data engine for content-safety vision models."""
