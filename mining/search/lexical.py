"""Find texts by their words: BM25 over bare words, in SQLite's full-text index, which lies on disk and takes no memory to speak of.

Paper: https://doi.org/10.1561/1500000019 (BM25)

The index keeps no text, only which words are in which. Words are found as they are meant, so disguised ones are found, too; in writing
without spaces between words whole runs of letters are one.
"""

import math
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tilth.texts import bare

TELLING = 24  # words of a question, at most
COMMON = 0.2  # share of the texts that have a word, from which on it tells nothing


class Lexical:
    """The words of a corpus.

    Args:
        path: Of the index; made when absent, and gone on with.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._rows = sqlite3.connect(path)
        self._rows.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA cache_size = -65536;"
            "CREATE TABLE IF NOT EXISTS texts (id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT UNIQUE, stamp TEXT);"
            "CREATE VIRTUAL TABLE IF NOT EXISTS found USING fts5(words, content='', tokenize='unicode61');"
            "CREATE VIRTUAL TABLE IF NOT EXISTS known USING fts5vocab(found, 'row');"
        )

    def __len__(self) -> int:
        """Count the texts."""
        return int(self._rows.execute("SELECT count(*) FROM texts").fetchone()[0])

    def close(self) -> None:
        """Let the file go."""
        self._rows.close()

    def add(self, texts: Iterable[tuple[str, str, str]]) -> None:
        """Add texts as `(key, stamp, text)`, all or none; one that is there and has not changed is left alone."""
        with self._rows as rows:
            for key, stamp, text in texts:
                there = rows.execute("SELECT stamp FROM texts WHERE key = ?", (key,)).fetchone()
                if there and there[0] == stamp:
                    continue
                # what the words of the old text lead to is gone with its row
                rows.execute("DELETE FROM texts WHERE key = ?", (key,))
                # no number is given twice, or old words would lead to the new text
                row = rows.execute("INSERT INTO texts (key, stamp) VALUES (?, ?)", (key, stamp)).lastrowid
                rows.execute("INSERT INTO found (rowid, words) VALUES (?, ?)", (row, bare(text)))

    def known(self, word: str) -> int:
        """Return in how many texts a word is."""
        found = self._rows.execute("SELECT doc FROM known WHERE term = ?", (word,)).fetchone()
        return int(found[0]) if found else 0

    def telling(self, texts: Sequence[str]) -> list[str]:
        """Return the words of some texts that tell most: in many of these and in few of all, but in one at least."""
        total = len(self)
        counts = Counter(word for text in texts for word in set(bare(text).split()))
        weights = {}
        for word, count in counts.items():
            among = self.known(word)
            if 0 < among <= max(1.0, COMMON * total):
                weights[word] = count * math.log(1 + total / among)
        return sorted(weights, key=lambda word: (-weights[word], word))[:TELLING]

    def search(self, words: Sequence[str], k: int) -> list[tuple[str, str, float]]:
        """Find the texts that have most of some words, as `(key, stamp, score)`, best first."""
        if not words:
            return []
        asked = " OR ".join('"' + word.replace('"', "") + '"' for word in words)
        found = self._rows.execute(
            "SELECT key, stamp, -bm25(found) FROM found JOIN texts ON texts.id = found.rowid WHERE found MATCH ? "
            "ORDER BY bm25(found), found.rowid LIMIT ?",
            (asked, k),
        )
        return [(str(key), str(stamp), float(score)) for key, stamp, score in found]
