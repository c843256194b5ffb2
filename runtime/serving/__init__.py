"""The moderation endpoint over HTTP. Start with `server.py`."""
