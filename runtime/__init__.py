"""Serve the two-stage moderator."""
