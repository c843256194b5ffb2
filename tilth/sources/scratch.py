"""A temporary database on disk, so that names of a million files take no memory."""

import sqlite3


def scratch() -> sqlite3.Connection:
    """Open a database that lies in a temporary file beyond its first two megabytes, and goes when it is closed."""
    # the engine may read from another thread than the one that opened it, but never from two at once
    database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
    database.execute("PRAGMA synchronous=OFF")
    database.execute("PRAGMA journal_mode=OFF")
    return database
