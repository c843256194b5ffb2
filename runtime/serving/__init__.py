"""The moderation endpoint over HTTP. Start with `app.py`, and `desk.py` for what happens to a request."""
