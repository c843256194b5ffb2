"""The language models that Stage 2 asks, each behind the same question. Start with `rows.py`; `server.py` asks one elsewhere."""
