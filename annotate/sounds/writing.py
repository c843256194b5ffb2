"""Write the sounds of a dataset as WAV files with what is true of them, in the layout that `datasets` calls audiofolder."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from tilth.annotate.texts.writing import EXPORTED, SPLITS
from tilth.claims import Json, State
from tilth.data.dataset import Dataset
from tilth.data.where import both, one_of
from tilth.errors import InputError
from tilth.samples import SOUND, Sample
from tilth.sounds import wav_bytes

FORMATS = ("audiofolder", "jsonl")


def export_sounds(
    dataset: Dataset, out: Path, format_: str, *, where: str = "", unlabelled: bool = False, say: Callable[[str], None]
) -> Mapping[str, Json]:
    """Write the labelled sounds of a dataset into a new folder: mono WAV files at their own rate, and a line for each.

    Args:
        dataset: Open at the version to write.
        out: Folder to make.
        format_: `audiofolder`: `train/metadata.jsonl` beside the files of `train/`; `jsonl`: `train.jsonl` and `sounds/`.
        where: Keeps the samples that this condition holds for.
        unlabelled: Write sounds that nobody has labelled too.
        say: Told what is left out, before anything is written.

    Returns:
        Counts of what was written and left out.

    Raises:
        InputError: The format is unknown, the folder exists, or there is no sound to write.
    """
    if format_ not in FORMATS:
        raise InputError(f"format of sounds must be one of {', '.join(FORMATS)}, got {format_!r}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is there already; give a new folder")
    sounds = both(f"media = '{SOUND}'", where)
    states = [str(state) for state in (*EXPORTED, *((State.UNLABELLED,) if unlabelled else ()))]
    left = {str(state): n for (state,), n in dataset.tally("state", where=sounds).items() if state not in states}
    for state, count in left.items():
        say(f"left out: {count} sounds: {state}")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    counts, labels = Counter[str](), Counter[str]()
    with ExitStack() as held:
        tables: dict[str, IO[str]] = {}
        for sample in dataset.samples(both(sounds, one_of("state", states))):
            split = SPLITS.get(sample.split, sample.split) or "train"
            beside = split if format_ == "audiofolder" else "sounds"
            if split not in tables:
                (partial / beside).mkdir(exist_ok=True)
                table = partial / (f"{split}/metadata.jsonl" if format_ == "audiofolder" else f"{split}.jsonl")
                tables[split] = held.enter_context(table.open("w", encoding="utf-8"))
            name = f"{sample.id}.wav"
            (partial / beside / name).write_bytes(wav_bytes(sample.sound()))
            file = name if format_ == "audiofolder" else f"sounds/{name}"
            tables[split].write(json.dumps({"file_name": file, **_row(sample)}, ensure_ascii=False) + "\n")
            counts[sample.split] += 1
            labels.update(str(label.category) for label in sample.truth.labels)
    if not counts:
        shutil.rmtree(partial)
        raise InputError(f"{dataset.root}: no labelled sound to write")
    if out.exists():
        out.rmdir()
    partial.rename(out)  # renamed last, so its existence means that the export is whole
    return {
        "format": format_,
        "sounds": counts.total(),
        "labels": dict(labels),
        "splits": dict(counts),
        "left_out": left,
    }


def _row(sample: Sample) -> dict[str, Any]:
    truth = sample.truth
    labels = []
    for label in truth.labels:
        start, end = (round(at, 4) for at in label.span) if label.span else (None, None)
        labels.append(
            {
                "category": label.category,
                "start": start,
                "end": end,
                "score": round(label.score, 6),
                "source": label.source,
            }
        )
    return {
        "id": sample.id,
        "state": str(truth.state),
        "split": sample.split,
        "labels": labels,
        "looked": list(truth.looked),
        "seconds": round(sample.size_wh[0] / sample.size_wh[1], 4),
        "rate": sample.size_wh[1],
        "licence": str(sample.origin.get("licence") or ""),
        "of": str(sample.origin.get("of") or ""),
        "source": str(sample.origin.get("source") or ""),
    }
