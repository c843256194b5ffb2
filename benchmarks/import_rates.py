"""How fast whole sets are taken in, by this checkout or an older one: `imports.py` runs this once for each.

    PYTHONPATH=../before python benchmarks/import_rates.py --format coco --images 100000 --out runs/rates

Images of 8 x 8 pixels with a box each: images this small show what the import itself costs. Prints one line of JSON: images a second
by the clock and by processor time. It imports nothing that an older checkout lacks.
"""

import argparse
import io
import json
import shutil
import time
from pathlib import Path

import numpy as np

from tilth.annotate.exchange.importing import Import
from tilth.annotate.formats.parts.records import Boxed, Entry
from tilth.annotate.formats.writing import open_writer
from tilth.data.dataset import Dataset
from tilth.engine.work import Work
from tilth.events import Events
from tilth.images import encode_png
from tilth.policy import Category, Policy

POLICY = Policy(policy="rates", version=1, categories=(Category(name="knife", definition="", prompts=("knife",)),))


def write_set(count: int, format_: str, folder: Path) -> None:
    """Write a set of so many images, each with its own pixels and one box."""
    folder.mkdir(parents=True)
    writer = open_writer(format_, folder, ("knife",), ("",))
    for number in range(count):
        pixels = np.frombuffer(np.array([number, 7, 7], np.uint32).tobytes() * 16, np.uint8).reshape(8, 8, 3)
        label = Boxed("knife", (1, 2, 5, 6), 1.0, "human:bench")
        about = {
            "id": f"{number:064d}",
            "file": f"{number:07d}.png",
            "split": "",
            "state": "reviewed",
            "size_wh": (8, 8),
        }
        writer.add(Entry(**about, data=encode_png(pixels), labels=(label,)))  # type: ignore[arg-type]
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", required=True)
    parser.add_argument("--images", type=int, required=True, metavar="N")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    shutil.rmtree(asked.out, ignore_errors=True)
    write_set(asked.images, asked.format, asked.out / "set")
    events = Events(None, io.StringIO())
    work = Work(name="import", dataset=Dataset(asked.out / "dataset"), policy=POLICY, folder=asked.out, events=events)
    began, worked = time.perf_counter(), time.process_time()
    facts = Import(path=asked.out / "set").run(work)
    rate = asked.images / (time.perf_counter() - began)
    alone = asked.images / (time.process_time() - worked)
    if (facts["images"], facts["boxes"]) != (asked.images, asked.images):
        raise SystemExit(f"{asked.format}: {facts}")
    print(json.dumps({"per_s": rate, "per_cpu_s": alone}))
    shutil.rmtree(asked.out)


if __name__ == "__main__":
    main()
