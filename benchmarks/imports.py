"""What imports bear and how fast they are: every reader is fed damaged files, and whole sets are taken in.

    python benchmarks/imports.py --fuzz 10000 --rates 100000

So many damaged inputs a format: label files of each, archives and tables as import and mine read them, lists of addresses, and image
files; `fuzz.py` says how they are damaged and what must hold. What a reader did not bear is printed, and kept in `--out`. Lance tables
are only damaged when asked for (`--kinds mine_lance`): of ten thousand some three make the library ask for the 16 GiB that a wrong
length names, and nothing outside it can prevent that.

Then sets of so many images with a box each are taken into a dataset of their own (`import_rates.py`), by the clock and by processor
time; with `--against ../before`, another checkout, by that one's code too, in turn.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from figures import ROOT, Figures, add_option
from fuzz import TARGETS, run_apart

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


def rates(count: int, against: Path | None, out: Path, figures: Figures) -> None:
    """Take in a set of each format, by an older checkout too where one is given, and note how many images a second that is."""
    print(f"{'format':8} {'code':8} {'a second':>9} {'of processor time':>18}")
    for format_ in RATED:
        found = {}
        for code, checkout in (("before", against), ("now", ROOT)):
            if checkout is None:
                continue
            command = [sys.executable, str(ROOT / "benchmarks/import_rates.py"), "--format", format_]
            command += ["--images", str(count), "--out", str((out / f"rates-{format_}").absolute())]
            environment = {**os.environ, "PYTHONPATH": str(checkout.absolute())}
            done = subprocess.run(command, env=environment, cwd=checkout, stdout=subprocess.PIPE, check=True, text=True)
            found[code] = json.loads(done.stdout.splitlines()[-1])
            print(f"{format_:8} {code:8} {found[code]['per_s']:9.0f} {found[code]['per_cpu_s']:18.0f}", flush=True)
        figures.add(f"{format_}_per_s", found["now"]["per_s"], "images/s")
        figures.add(f"{format_}_per_cpu_s", found["now"]["per_cpu_s"], "images/s")
        if "before" in found:
            figures.add(f"{format_}_before_per_s", found["before"]["per_s"], "images/s")
            figures.add(f"{format_}_before_per_cpu_s", found["before"]["per_cpu_s"], "images/s")


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
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="measure the rates of this checkout too")
    parser.add_argument("--out", type=Path, default=Path("runs/imports"))
    add_option(parser)
    asked = parser.parse_args()
    figures = Figures("imports")
    crashes = fuzz(asked.fuzz, asked.kinds, asked.out, figures) if asked.fuzz else 0
    if asked.rates:
        figures.add("images", asked.rates, "images")
        rates(asked.rates, asked.against, asked.out, figures)
    figures.write(asked.results)
    if crashes:
        raise SystemExit(f"{crashes} inputs did what they must not; they lie in {asked.out}")


if __name__ == "__main__":
    main()
