"""What imports bear and how fast they are: every reader is fed damaged files, and whole sets are taken in.

    python benchmarks/imports.py --fuzz 10000

So many damaged inputs a format: label files of each, archives and tables as import and mine read them, lists of addresses, and image
files; `fuzz.py` says how they are damaged and what must hold. What a reader did not bear is printed, and kept in `--out`.
"""

import argparse
from pathlib import Path

from figures import Figures, add_option
from fuzz import TARGETS, run_apart


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--fuzz", type=int, default=10_000, metavar="N", help="damaged inputs a kind; 0 leaves them out"
    )
    parser.add_argument("--kinds", nargs="+", default=list(TARGETS), choices=list(TARGETS), metavar="KIND")
    parser.add_argument("--out", type=Path, default=Path("runs/imports"))
    add_option(parser)
    asked = parser.parse_args()
    figures = Figures("imports")
    crashes = fuzz(asked.fuzz, asked.kinds, asked.out, figures) if asked.fuzz else 0
    figures.write(asked.results)
    if crashes:
        raise SystemExit(f"{crashes} inputs did what they must not; they lie in {asked.out}")


if __name__ == "__main__":
    main()
