"""The world of sounds: clips of two seconds with what is said and what happens in them, and the truth.

corpus/    clips that nobody has labelled
labelled/  labelled ones of eight voices
few/       ten of each category and thirty without, of the same voices
general/   sealed: as the labelled ones, and in half of them voices that no other set has
hard/      sealed: noise as loud as what is to be heard or louder, in rooms, with speech over each event
low/       sealed: unseen voices alone
truth.jsonl of every clip: what it holds

Each folder but the corpus has a `metadata.jsonl`, in the layout that `datasets` calls audiofolder.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tilth.data.files import folder_beside
from tilth.errors import InputError, Unavailable
from tilth.events import Advance
from tilth.hearing.effects import banded, coloured, echoed, impulse, limited, loudness, mixed
from tilth.sounds import Sound, Wave, exact, wav_bytes
from tilth.starter.speech.events import EVENTS
from tilth.starter.speech.events import TWINS as NEAR_EVENTS
from tilth.starter.speech.voices import PHRASES, PLAIN, RATE, SEEN, TWINS, UNSEEN, missing, speak

PURPOSE = 97  # part of the seed; nothing else is drawn by it
SECONDS = 2.0
CATEGORIES = (*PHRASES, *EVENTS)
PREVALENCE, NEAR = 0.1, 0.6  # chances: of each category, and that a clip without any has something that is like one
SETS = {"corpus": 600, "labelled": 400, "few": 80, "general": 400, "hard": 400, "low": 400}
SEALED = ("general", "hard", "low")
PER_CLASS = 10  # of `few`

Row = dict[str, Any]


def draw_clip(set_: str, index: int, seed: int) -> tuple[Wave, Row]:
    """Draw a clip at 16 kHz, and what it holds: `labels` with their seconds, `says`, `voice`, `event`, `snr_db`, `room_s`, `telephone`."""
    rng = np.random.default_rng((PURPOSE, list(SETS).index(set_), index, seed))
    hard = set_ == "hard"
    category, near = _what(set_, index, rng)
    voice = str(rng.choice(UNSEEN if set_ == "low" or (set_ == "general" and index % 2) else SEEN))
    said, event = "", ""
    if category in PHRASES:
        said = str(rng.choice(PHRASES[category]))
    elif near in PHRASES:
        said = str(rng.choice(TWINS[near]))
    elif (not category and not near) or hard or rng.random() < 0.5:
        said = str(rng.choice(PLAIN))
    whole = np.zeros(int(SECONDS * RATE), np.float32)
    labels: list[dict[str, Any]] = []
    if said:
        spoken = speak(said, voice, 10 * int(rng.integers(2, 9)), 20 * int(rng.integers(8, 11)))
        start, end = _placed(whole, 0.1 * spoken / max(1e-9, loudness(spoken)), rng)
        if category in PHRASES:
            labels.append({"category": category, "start": start, "end": end})
    if category in EVENTS or near in EVENTS:
        event = category if category in EVENTS else f"near {near}"
        made = EVENTS[category](rng) if category in EVENTS else NEAR_EVENTS[near](rng)
        start, end = _placed(whole, made * (0.1 / max(1e-9, loudness(made))), rng)
        if category in EVENTS:
            labels.append({"category": category, "start": start, "end": end})
    room = rng.uniform(0.2, 0.7) if hard or rng.random() < 0.3 else 0.0
    telephone = bool(rng.random() < 0.2)
    snr = rng.uniform(-5, 5) if hard else rng.uniform(5, 20)
    wave = echoed(limited(whole), impulse(rng, RATE, room)) if room else limited(whole)
    wave = mixed(wave, coloured(rng, len(wave), rng.uniform(0, 2)), snr)
    wave = banded(wave, RATE, 300, 3400) if telephone else wave
    told = {
        "says": said,
        "voice": voice if said else "",
        "event": event,
        "snr_db": round(snr, 1),
        "room_s": round(room, 2),
    }
    return exact(limited(wave)), {"labels": labels, **told, "telephone": telephone}


def _what(set_: str, index: int, rng: np.random.Generator) -> tuple[str, str]:
    """Draw the category of a clip, or else what it is like."""
    if set_ == "few" and index < PER_CLASS * len(CATEGORIES):
        return CATEGORIES[index // PER_CLASS], ""
    drawn = rng.random()
    category = next((name for n, name in enumerate(CATEGORIES, 1) if drawn < n * PREVALENCE and set_ != "few"), "")
    near = str(rng.choice(CATEGORIES)) if not category and rng.random() < NEAR else ""
    return category, near


def _placed(whole: Wave, part: Wave, rng: np.random.Generator) -> tuple[float, float]:
    """Add a sound somewhere, and return from when to when it is heard, in seconds."""
    part = part[: len(whole)]
    at = int(rng.integers(0, len(whole) - len(part) + 1))
    whole[at : at + len(part)] += part
    return round(at / RATE, 3), round((at + len(part)) / RATE, 3)


def clips(set_: str, count: int, seed: int) -> Iterator[tuple[Wave, Row]]:
    """Draw the clips of a set, in order."""
    return (draw_clip(set_, index, seed) for index in range(count))


def write_sounds(out: Path, *, counts: dict[str, int] | None = None, seed: int = 0, advance: Advance) -> dict[str, int]:
    """Write a world of sounds, and return how many clips each of its folders has.

    Args:
        out: Folder to make.
        counts: Clips by folder, instead of those of `SETS`.
        seed: Another one gives other clips.
        advance: Told of each clip.

    Raises:
        InputError: There is something at `out`, or a number is none.
        Unavailable: espeak-ng is not here.
    """
    counts = {**SETS, **(counts or {})}
    if min(counts.values()) < 1 or seed < 0:
        raise InputError(f"expected at least one clip of each kind and a seed from 0, got {counts} and {seed}")
    if out.exists():
        raise InputError(f"{out}: is there already; give a new folder")
    if why := missing():
        raise Unavailable(why)
    with folder_beside(out) as partial:
        partial.mkdir(parents=True)
        with (partial / "truth.jsonl").open("w", encoding="utf-8") as truth:
            for set_, count in counts.items():
                (partial / set_).mkdir()
                rows = []
                for index, (wave, row) in enumerate(clips(set_, count, seed)):
                    name = f"{set_}-{index:05d}.wav"
                    (partial / set_ / name).write_bytes(wav_bytes(_sixteen(wave)))
                    truth.write(json.dumps({"set": set_, "file_name": name, **row}) + "\n")
                    rows.append(
                        {
                            "file_name": name,
                            "labels": row["labels"],
                            "voice": "unseen" if row["voice"] in UNSEEN else "seen",
                        }
                    )
                    advance(1)
                if set_ != "corpus":
                    lines = "".join(json.dumps(row) + "\n" for row in rows)
                    (partial / set_ / "metadata.jsonl").write_text(lines, encoding="utf-8")
    return counts


def _sixteen(wave: Wave) -> Sound:
    return Sound(samples=np.asarray(np.rint(wave * 2**15).clip(-(2**15), 2**15 - 1) / 2**15, np.float32), rate=RATE)
