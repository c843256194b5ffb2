"""Phrases and who speaks them: espeak-ng, a program of the system (GPL, never part of Tilth), is asked to when a world is made."""

import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

from tilth.errors import Unavailable
from tilth.sounds import Wave, decode_sound, resampled

PROGRAM = "espeak-ng"
RATE = 16_000  # Hz
TIMEOUT = 60  # s
# Mild inventions, and harmless phrases that share words with them.
PHRASES: dict[str, tuple[str, ...]] = {
    "spoken_threat": ("we will find you", "you will pay for this", "watch your back tonight", "leave or we hurt you"),
    "spoken_ad": ("bet now and win cash", "play poker for money", "double your money tonight", "free bets all night"),
}
TWINS: dict[str, tuple[str, ...]] = {
    "spoken_threat": ("we will find your bag", "you will pay at the till", "watch your step tonight", "leave or we miss the bus"),
    "spoken_ad": ("bring now a cake and coffee", "play chess for fun", "double your soup tonight", "free books all night"),
}  # fmt: skip
PLAIN = (
    "the library is open",
    "mind the wet floor",
    "fresh bread at noon",
    "the bus is late",
    "a cup of tea please",
    "see you on sunday",
)
SEEN = ("en-us+m1", "en-us+f1", "en-gb+m3", "en-gb+f2", "en-us+m4", "en-gb-x-rp+f3", "en-us+m6", "en-gb+f5")
UNSEEN = ("en-gb-scotland+m7", "en-029+f4", "en-us+m2", "en-gb-x-gbclan+m5")


def missing() -> str:
    """Say why nothing can be spoken here; empty when it can."""
    return "" if shutil.which(PROGRAM) else f"{PROGRAM} is not installed; run: apt-get install {PROGRAM}"


@lru_cache(maxsize=4096)
def speak(text: str, voice: str, pitch: int, speed: int) -> Wave:
    """Return a phrase spoken at 16 kHz.

    Args:
        text: What is said.
        voice: One of espeak-ng's.
        pitch: 0 to 99.
        speed: Words a minute.

    Raises:
        Unavailable: espeak-ng is not here, or does not speak.
    """
    if why := missing():
        raise Unavailable(why)
    with tempfile.TemporaryDirectory(prefix="spoken-") as folder:
        path = Path(folder) / "a.wav"
        command = [PROGRAM, "-v", voice, "-p", str(pitch), "-s", str(speed), "-w", str(path), "--", text]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        if done.returncode or not path.exists():
            raise Unavailable(f"{PROGRAM} did not speak with voice {voice}: {done.stderr.strip()[:200]}")
        return resampled(decode_sound(path.read_bytes()), RATE)
