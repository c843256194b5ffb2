"""A policy of two categories that words decide, and tables of texts."""

import json
from pathlib import Path

from tilth.policy import Category, Policy

WORDS = Policy(
    policy="words",
    version=1,
    categories=(
        Category(name="gambling", evidence="text", definition="adverts for games of chance", also=("bets",)),
        Category(name="threats", evidence="text", definition="says that somebody will come to harm"),
    ),
)


def jsonl(path: Path, *rows: object) -> Path:
    """Write rows as they are, or as lines of JSON."""
    path.write_text(
        "".join((row if isinstance(row, str) and row.startswith("{") else json.dumps(row)) + "\n" for row in rows)
    )
    return path
