"""Sounds as a model learns from them: clips of one length, what is known to be heard in each, and random views of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tilth.claims import Answer, Truth
from tilth.data.dataset import Dataset
from tilth.errors import InputError
from tilth.hearing.effects import banded, coded, coloured, echoed, impulse, limited, mixed
from tilth.samples import Sample
from tilth.sounds import Wave, resampled
from tilth.train.speech.settings import Views

Flags = npt.NDArray[np.bool_]
RATE = 16_000  # Hz; all of these models were trained at it
MOST_HEARD = 0.5  # share of an event, or of a clip, that makes it heard there


def view(wave: Wave, views: Views, rng: np.random.Generator) -> Wave:
    """Draw a view of a clip: moved in time, louder or quieter, and worse."""
    wave = np.roll(wave, int(rng.integers(-RATE // 4, RATE // 4)))
    if rng.random() < views.room:
        wave = echoed(wave, impulse(rng, RATE, rng.uniform(0.1, 0.8)))
    if rng.random() < views.noise:
        wave = mixed(wave, coloured(rng, len(wave), rng.uniform(0, 2)), rng.uniform(0, 25))
    if rng.random() < views.band:
        wave = banded(wave, RATE, rng.uniform(100, 400), rng.uniform(2500, 6000))
    if rng.random() < views.codec:
        wave = coded(wave, int(rng.integers(5, 9)))
    return limited(wave * np.float32(10 ** rng.uniform(-0.3, 0.3)))


@dataclass(frozen=True, kw_only=True)
class Clips:
    """Clips and their labels.

    Args:
        waves: 16 kHz, `(n, samples)`, in int16; a file on disk.
        heard: Whether a category is heard, `(n, k)`.
        known: Whether that is known, `(n, k)`.
    """

    waves: npt.NDArray[np.int16]
    heard: Flags
    known: Flags

    def __len__(self) -> int:
        return len(self.heard)

    def wave(self, place: int) -> Wave:
        """Return a clip in [-1, 1)."""
        return np.asarray(self.waves[place] / 2**15, np.float32)


def cut(sample: Sample, seconds: float) -> list[Wave]:
    """Return a sound at 16 kHz as clips of one length, which overlap by half; a short one, or the last, is filled with silence.

    Raises:
        InputError: It cannot be decoded.
    """
    wave = resampled(sample.sound(), RATE)
    size = round(seconds * RATE)
    starts = range(0, max(1, len(wave) - size // 2), size // 2) if len(wave) > size else (0,)
    return [np.pad(part, (0, size - len(part))) for start in starts if len(part := wave[start : start + size])]


def labels_of(
    truth: Truth, names: Sequence[str], clip: int, clips: int, seconds: float
) -> tuple[list[bool], list[bool]]:
    """Return what is heard in one of a sound's clips, and what is known of that.

    Where a sound has several clips, a label without seconds does not tell in which of them it is heard, so nothing is known there.
    """
    start, end = clip * seconds / 2, clip * seconds / 2 + seconds
    heard, known = [], []
    for name in names:
        answer = truth.of(name)
        spans = [label.span for label in truth.labels if label.category == name]
        if answer is Answer.PRESENT and clips > 1:
            shares = [
                max(0.0, min(end, span[1]) - max(start, span[0])) / min(span[1] - span[0], seconds)
                for span in spans
                if span
            ]
            most = max(shares, default=0.0)
            known.append(most >= MOST_HEARD or (most == 0 and None not in spans))
            heard.append(most >= MOST_HEARD)
        else:
            known.append(answer is not Answer.UNASKED)
            heard.append(answer is Answer.PRESENT)
    return heard, known


def read_clips(dataset: Dataset, where: str, names: Sequence[str], seconds: float, path: Path) -> Clips:
    """Cut the sounds that a condition holds for into clips, and keep those of which something is known in a file.

    Raises:
        InputError: There is none, or one cannot be decoded.
    """
    heard: list[list[bool]] = []
    known: list[list[bool]] = []

    def parts() -> Iterator[Wave]:
        for sample in dataset.samples(where):
            waves = cut(sample, seconds)
            for place, wave in enumerate(waves):
                is_heard, is_known = labels_of(sample.truth, names, place, len(waves), seconds)
                if any(is_known):
                    heard.append(is_heard)
                    known.append(is_known)
                    yield wave

    path.parent.mkdir(parents=True, exist_ok=True)
    size = round(seconds * RATE)
    with path.open("wb") as stream:
        for wave in parts():
            stream.write(np.rint(wave * 2**15).clip(-(2**15), 2**15 - 1).astype("<i2").tobytes())
    if not heard:
        raise InputError(f"people labelled no sound where {where}")
    waves = np.memmap(path, "<i2", "r", shape=(len(heard), size))
    return Clips(waves=waves, heard=np.array(heard, bool), known=np.array(known, bool))
