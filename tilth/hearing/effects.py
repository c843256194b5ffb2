"""Noise, rooms, telephone bands and coarse codecs, on mono samples `(n,)`; drawn worlds and random training views use them."""

import numpy as np
import numpy.typing as npt

from tilth.sounds import Wave

PEAK = 0.95  # of full scale, above which a mix is made quieter
MU = 255  # of the mu-law that telephones code with


def loudness(wave: Wave) -> float:
    """Return the root mean square of what is heard: of the parts of 20 ms at 16 kHz that are not silent."""
    parts = np.square(wave[: len(wave) // 320 * 320].reshape(-1, 320)).mean(1) if len(wave) >= 320 else np.square(wave)
    heard = parts[parts > 0.01 * parts.max(initial=0.0)]
    return float(np.sqrt(heard.mean())) if len(heard) else 0.0


def mixed(wave: Wave, noise: Wave, snr_db: float) -> Wave:
    """Add noise of the same length so that the wave is so many decibels louder.

    >>> rng = np.random.default_rng(0)
    >>> a, b = (rng.normal(0, 0.1, 3200).astype(np.float32) for _ in range(2))
    >>> added = mixed(a, b, 20) - a
    >>> round(20 * float(np.log10(a.std() / added.std())))
    20
    """
    loud, under = loudness(wave), loudness(noise)
    if not loud or not under:
        return wave
    return limited(wave + noise * np.float32(loud / under / 10 ** (snr_db / 20)))


def limited(wave: Wave) -> Wave:
    """Make a wave quieter where it would be clipped."""
    peak = float(np.abs(wave).max(initial=0.0))
    return np.asarray(wave * (PEAK / peak), np.float32) if peak > PEAK else np.asarray(wave, np.float32)


def coloured(rng: np.random.Generator, n: int, slope: float) -> Wave:
    """Draw noise whose power falls as frequency to the power of `slope`: 0 is white, 1 pink, 2 brown."""
    spectrum = np.fft.rfft(rng.normal(size=n))
    spectrum[1:] /= np.arange(1, len(spectrum)) ** (slope / 2)
    spectrum[0] = 0
    wave = np.fft.irfft(spectrum, n)
    return np.asarray(0.1 * wave / max(1e-9, wave.std()), np.float32)


def impulse(rng: np.random.Generator, rate: int, seconds: float) -> Wave:
    """Draw the response of a room: the direct sound, then noise that falls by 60 dB in so many seconds."""
    n = max(2, int(rate * seconds))
    tail = rng.normal(size=n) * 10 ** (-3 * np.arange(n) / n)
    tail[: int(rate * rng.uniform(0.001, 0.01))] = 0
    tail *= rng.uniform(0.3, 0.9) / max(1e-9, float(np.sqrt(np.square(tail).sum())))
    tail[0] = 1
    return np.asarray(tail, np.float32)


def echoed(wave: Wave, response: Wave) -> Wave:
    """Let a wave sound in a room; what would ring on beyond its end is cut."""
    n = len(wave) + len(response) - 1
    return limited(np.fft.irfft(np.fft.rfft(wave, n) * np.fft.rfft(response, n), n)[: len(wave)].astype(np.float32))


def banded(wave: Wave, rate: int, low: float, high: float) -> Wave:
    """Keep the frequencies from `low` to `high` in Hz, as a telephone does with 300 to 3400."""
    at = np.fft.rfftfreq(len(wave), 1 / rate)
    gain = 1 / (1 + (low / np.maximum(at, 1e-3)) ** 8) / (1 + (at / high) ** 16)
    return np.asarray(np.fft.irfft(np.fft.rfft(wave) * gain, len(wave)), np.float32)


def coded(wave: Wave, bits: int) -> Wave:
    """Code each sample by so many bits of mu-law, and decode it again.

    >>> fine, coarse = (np.abs(coded(np.float32([0.5, -0.1]), bits) - [0.5, -0.1]).max() for bits in (8, 4))
    >>> bool(fine < 0.02 < coarse)
    True
    """
    steps = 2 ** (bits - 1)
    small: npt.NDArray[np.float64] = np.sign(wave) * np.log1p(MU * np.minimum(np.abs(wave), 1.0)) / np.log1p(MU)
    coarse = np.rint(small * steps) / steps
    return np.asarray(np.sign(coarse) * np.expm1(np.abs(coarse) * np.log1p(MU)) / MU, np.float32)
