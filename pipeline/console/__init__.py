"""The console: a local page that leads from a folder to a served model without code. Start with `server.py`."""
