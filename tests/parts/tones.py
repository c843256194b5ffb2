"""Sounds without a voice: noisy tones, of which some are labelled."""

import json
from pathlib import Path

import numpy as np

from tilth.sounds import Sound, exact, wav_bytes

RATE = 16_000


def tone(hertz: float, seed: int = 0, *, seconds: float = 0.5, rate: int = RATE) -> Sound:
    """A tone in noise, in 24 bits."""
    n = int(seconds * rate)
    wave = 0.1 * np.sin(2 * np.pi * hertz * np.arange(n) / rate) + 0.01 * np.random.default_rng(seed).normal(size=n)
    return Sound(samples=exact(wave), rate=rate)


def tone_folder(folder: Path, count: int, *, split: str = "", first: int = 0) -> Path:
    """A folder of tones with a `metadata.jsonl`: every fourth is high, and labelled as a siren from 0.1 to 0.4 s."""
    folder.mkdir(parents=True)
    rows = []
    for n in range(first, first + count):
        high = n % 4 == 0
        (folder / f"{n}.wav").write_bytes(wav_bytes(tone(3000 if high else 300, n)))
        labels = [{"category": "siren", "start": 0.1, "end": 0.4}] if high else []
        rows.append({"file_name": f"{n}.wav", "labels": labels, **({"split": split} if split else {})})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
