"""Sounds in, mono samples out: decoding with limits, the one form in which a sound is compared, and the identity of a sound.

Every file is taken as hostile: what it says of its length is not believed, and no more is decoded than the limits allow. A sound keeps
the rate that its file has; who needs another one asks for it (`resampled`).
"""

import hashlib
import io
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tilth.errors import InputError
from tilth.extras import optional

Wave: TypeAlias = npt.NDArray[np.float32]

MAX_BYTES = 128 * 2**20
MAX_SECONDS = 300  # a longer one is a recording, which is cut into clips before
MAX_CHANNELS = 8
RATES = (4_000, 192_000)  # Hz, least and most
FORMATS = {"WAV": "wav", "WAVEX": "wav", "RF64": "wav", "FLAC": "flac", "OGG": "ogg", "MP3": "mp3", "MPEG": "mp3"}
SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3")
STEPS = 2**23  # a sample is known to 24 bits: whatever 16- and 24-bit files hold is kept exactly
BLOCK = 2**16  # frames that are decoded at once


@dataclass(frozen=True, kw_only=True, eq=False)
class Sound:
    """A mono sound.

    Args:
        samples: In [-1, 1), `(n,)`, each a multiple of 2^-23.
        rate: Samples a second, as the file has it.
    """

    samples: Wave
    rate: int

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples) / self.rate


def decode_sound(data: bytes) -> Sound:
    """Decode a WAV, FLAC, OGG (Vorbis, Opus) or MP3 file; several channels are averaged.

    Raises:
        InputError: It is of no such kind, damaged, empty, too long, or has channels or a rate beyond the limits.
    """
    with optional():
        import soundfile
    if len(data) > MAX_BYTES:
        raise InputError(f"sound file of {len(data) / 2**20:.0f} MiB, the limit is {MAX_BYTES // 2**20} MiB")
    if not data:
        raise InputError("empty file")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            return Sound(samples=_mono(file), rate=file.samplerate)
    except soundfile.SoundFileError as error:
        raise InputError(f"no sound that can be decoded: {str(error).rpartition(': ')[2][:200]}") from error


def _mono(file: Any) -> Wave:
    """Read all that there is, a block at a time, as the mean of the channels."""
    if file.format not in FORMATS:
        raise InputError(f"sound of format {file.format}; those read are WAV, FLAC, OGG and MP3")
    if not RATES[0] <= file.samplerate <= RATES[1]:
        raise InputError(f"sound of {file.samplerate:,} Hz, expected {RATES[0]:,} to {RATES[1]:,}")
    if file.channels > MAX_CHANNELS:
        raise InputError(f"sound of {file.channels} channels, the limit is {MAX_CHANNELS}")
    most, parts, count = MAX_SECONDS * file.samplerate, [], 0
    while len(block := file.read(BLOCK, dtype="float64", always_2d=True)):
        count += len(block)
        if count > most:
            raise InputError(f"sound longer than {MAX_SECONDS} s; cut it into clips")
        parts.append(block.mean(1))
    if not parts:
        raise InputError("sound without a single sample")
    if FORMATS[file.format] != "mp3" and count < file.frames:  # of MP3 the length is a guess
        raise InputError(f"damaged: {count:,} samples of {file.frames:,} can be decoded")
    return exact(np.concatenate(parts))


def exact(samples: npt.NDArray[Any]) -> Wave:
    """Round samples to the 24 bits that a sound is known by; what is louder than full scale is clipped.

    Raises:
        InputError: One is no number.
    """
    if not np.isfinite(samples).all():
        raise InputError("sound with samples that are no numbers")
    return np.asarray(np.rint(samples * STEPS).clip(-STEPS, STEPS - 1) / STEPS, np.float32)


def sound_id(sound: Sound) -> str:
    """Return the SHA-256 of a sound's rate and samples; the same whether they came as WAV or FLAC.

    >>> tone = Sound(samples=np.zeros(8, np.float32), rate=16_000)
    >>> sound_id(tone) == sound_id(tone) != sound_id(Sound(samples=tone.samples, rate=8_000))
    True
    """
    whole = np.asarray(sound.samples * np.float64(STEPS), "<i4")
    return hashlib.sha256(b"sound\0" + sound.rate.to_bytes(4, "little") + whole.tobytes()).hexdigest()


def resampled(sound: Sound, rate: int) -> Wave:
    """Return the samples at another rate, `(n · rate / sound.rate,)`.

    >>> len(resampled(Sound(samples=np.zeros(800, np.float32), rate=8_000), 16_000))
    1600
    """
    if sound.rate == rate:
        return sound.samples
    with optional():
        import soxr
    return np.asarray(soxr.resample(sound.samples, sound.rate, rate), np.float32)


def wav_bytes(sound: Sound) -> bytes:
    """Write a sound as a mono WAV file of 16 bits where these hold it exactly, else of 24; it is then the same sound again."""
    with optional():
        import soundfile
    whole = np.asarray(sound.samples * np.float64(STEPS), np.int32)
    short = not (whole & 0xFF).any()
    file = io.BytesIO()
    soundfile.write(
        file,
        (whole >> 8).astype(np.int16) if short else whole << 8,
        sound.rate,
        format="WAV",
        subtype="PCM_16" if short else "PCM_24",
    )
    return file.getvalue()
