"""Enrol people who asked to be protected, look for them, and forget them: `register.py` holds them, `finding.py` looks."""
