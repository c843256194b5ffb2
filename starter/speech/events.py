"""Sounds of things, made of noise and tones: a bang, breaking glass and a siren, and harmless ones that are like them; 16 kHz."""

from collections.abc import Callable

import numpy as np

from tilth.hearing.effects import banded, coloured
from tilth.sounds import Wave

RATE = 16_000  # Hz


def _time(seconds: float) -> Wave:
    return np.asarray(np.arange(int(RATE * seconds)) / RATE, np.float32)


def _bang(rng: np.random.Generator) -> Wave:
    t = _time(rng.uniform(0.3, 0.6))
    crack = banded(coloured(rng, len(t), 0.5), RATE, 80, rng.uniform(2500, 5000)) * np.exp(-t * rng.uniform(14, 24))
    return np.asarray(crack + np.sin(2 * np.pi * rng.uniform(50, 90) * t) * np.exp(-t * 10) * 0.2, np.float32)


def _knock(rng: np.random.Generator) -> Wave:
    """Two or three dull knocks, slower to rise than a bang and without its hiss."""
    whole = np.zeros(int(RATE * 0.6), np.float32)
    for n in range(int(rng.integers(2, 4))):
        t = _time(0.08)
        at = int(RATE * (0.02 + 0.17 * n))
        whole[at : at + len(t)] += np.sin(2 * np.pi * rng.uniform(180, 320) * t) * np.exp(-t * 60) * 0.3
    return whole


def _glass(rng: np.random.Generator) -> Wave:
    t = _time(rng.uniform(0.5, 0.8))
    whole = banded(coloured(rng, len(t), 0), RATE, 2500, 7500) * np.exp(-t * 30)
    for _ in range(int(rng.integers(12, 24))):
        at, tone, falls = rng.uniform(0, 0.3), rng.uniform(2500, 7000), rng.uniform(25, 60)
        after = np.maximum(t - at, 0)
        whole = whole + (t >= at) * np.sin(2 * np.pi * tone * after) * np.exp(-after * falls) * 0.05
    return np.asarray(whole, np.float32)


def _chime(rng: np.random.Generator) -> Wave:
    """Few clear tones that ring long, as of a small bell."""
    t = _time(rng.uniform(0.5, 0.8))
    tone = rng.uniform(1800, 3200)
    parts = (np.sin(2 * np.pi * tone * k * t) * np.exp(-t * 5 * k) / k for k in (1, 2, 2.4))
    return np.asarray(0.1 * sum(parts), np.float32)


def _siren(rng: np.random.Generator) -> Wave:
    t = _time(rng.uniform(0.9, 1.4))
    low, high, speed = rng.uniform(500, 700), rng.uniform(1100, 1500), rng.uniform(1.2, 3.0)
    tone = low + (high - low) * (0.5 - 0.5 * np.cos(2 * np.pi * speed * t))
    phase = 2 * np.pi * np.cumsum(tone) / RATE
    return np.asarray(0.1 * (np.sin(phase) + 0.4 * np.sin(2 * phase)), np.float32)


def _horn(rng: np.random.Generator) -> Wave:
    """One steady tone with its harmonics."""
    t = _time(rng.uniform(0.5, 1.2))
    tone = rng.uniform(350, 900)
    return np.asarray(0.1 * sum(np.sin(2 * np.pi * tone * k * t) / k for k in (1, 2, 3)), np.float32)


EVENTS: dict[str, Callable[[np.random.Generator], Wave]] = {"bang": _bang, "glass": _glass, "siren": _siren}
TWINS: dict[str, Callable[[np.random.Generator], Wave]] = {"bang": _knock, "glass": _chime, "siren": _horn}
