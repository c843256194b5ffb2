"""What imports bear and how fast they are: every reader is fed damaged files, and whole sets are taken in.

    python benchmarks/imports.py --fuzz 10000 --rates 100000

So many damaged inputs a format: label files of each, archives and tables as import and mine read them, lists of addresses, and image
files; `fuzz.py` says how they are damaged and what must hold. What a reader did not bear is printed, and kept in `--out`. Lance tables
are only damaged when asked for (`--kinds mine_lance`): of ten thousand some three make the library ask for the 16 GiB that a wrong
length names, and nothing outside it can prevent that.

Then sets of so many images of 8 x 8 pixels with a box each are taken into a dataset of their own, by the clock and by processor time:
images this small show what the import itself costs.
"""

import argparse
import io
import shutil
import time
from pathlib import Path

import numpy as np
from figures import Figures, add_option
from fuzz import TARGETS, run_apart
from fuzz_targets import POLICY

from tilth.annotate.exchange.importing import Import
from tilth.annotate.formats.parts.records import Boxed, Entry
from tilth.annotate.formats.writing import open_writer
from tilth.data.dataset import Dataset
from tilth.engine.work import Work
from tilth.events import Events
from tilth.images import encode_png

RATED = ("coco", "yolo", "voc")


def fuzz(count: int, names: list[str], out: Path, figures: Figures) -> int:
    """Damage each target so often; return how many inputs did what they must not."""
    inputs, crashes = 0, 0
    print(f"{'kind':16} {'inputs':>8} {'crashes':>8} {'a second':>9}")
    for name in names:
        found = run_apart(name, count, out)
        rate = found.inputs / found.seconds
        print(
            f"{name:16} {found.inputs:8} {len(found.crashes):8} {rate:9.0f}", *found.crashes[:5], sep="\n  ", flush=True
        )
        inputs, crashes = inputs + found.inputs, crashes + len(found.crashes)
        figures.add(f"fuzz.{name}.inputs", found.inputs, "inputs")
        figures.add(f"fuzz.{name}.crashes", len(found.crashes), "inputs")
    figures.add("fuzzed", inputs, "inputs")
    figures.add("crashes", crashes, "inputs")
    return crashes


def rates(count: int, out: Path, figures: Figures) -> None:
    """Take in a set of each format, and note how many images a second that is."""
    print(f"{'format':16} {'a second':>9} {'of processor time':>18}")
    for format_ in RATED:
        place = out / f"rates-{format_}"
        shutil.rmtree(place, ignore_errors=True)
        (place / "set").mkdir(parents=True)
        writer = open_writer(format_, place / "set", ("knife",), ("",))
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
        events = Events(None, io.StringIO())
        work = Work(name="import", dataset=Dataset(place / "dataset"), policy=POLICY, folder=place, events=events)
        began, worked = time.perf_counter(), time.process_time()
        facts = Import(path=place / "set").run(work)
        rate, alone = count / (time.perf_counter() - began), count / (time.process_time() - worked)
        if (facts["images"], facts["boxes"]) != (count, count):
            raise SystemExit(f"{format_}: {facts}")
        print(f"{format_:16} {rate:9.0f} {alone:18.0f}", flush=True)
        figures.add(f"{format_}_per_s", rate, "images/s")
        figures.add(f"{format_}_per_cpu_s", alone, "images/s")
        shutil.rmtree(place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--fuzz", type=int, default=10_000, metavar="N", help="damaged inputs a kind; 0 leaves them out"
    )
    parser.add_argument("--rates", type=int, default=100_000, metavar="N", help="images a format; 0 leaves them out")
    parser.add_argument(
        "--kinds",
        nargs="+",
        default=[kind for kind in TARGETS if kind != "mine_lance"],
        choices=list(TARGETS),
        metavar="KIND",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/imports"))
    add_option(parser)
    asked = parser.parse_args()
    figures = Figures("imports")
    crashes = fuzz(asked.fuzz, asked.kinds, asked.out, figures) if asked.fuzz else 0
    if asked.rates:
        figures.add("images", asked.rates, "images")
        rates(asked.rates, asked.out, figures)
    figures.write(asked.results)
    if crashes:
        raise SystemExit(f"{crashes} inputs did what they must not; they lie in {asked.out}")


if __name__ == "__main__":
    main()
