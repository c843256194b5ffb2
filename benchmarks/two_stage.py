"""Both stages of a bundle beside Stage 1 alone: words that are harmful, policies that change, things that are replaced, words that mislead.

    python benchmarks/two_stage.py --bundle runs/starter/bundle --work runs/two-stage
    python benchmarks/two_stage.py --bundle runs/starter/bundle --work runs/two-stage --only signs --images 60 --seeds 0   # a small try

Each seed has folders of its own, which `python -m tilth.starter` draws once and no training has seen, and each protocol is what
`tilth eval --protocol` runs. A figure is the mean of all seeds, its interval from the lowest to the highest end of theirs, so that
neither the images of a seed nor the seeds are taken for the world. `--only` measures some parts; of the others what an earlier file says
is kept. Given again, it goes on with the seeds that are not judged yet by this code.

    signs       two-stage: 1,000 images, three quarters with words; text only and text + visual are subsets of at least 500
    pairs       500 scenes, half of them with an unsafe thing and with its look-alike, half with harmful words and with harmless ones
    flips       600 signs under each of several policies
    injection   500 signs with words that were put in to mislead, and without
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from figures import Figures, add_option, commit

from tilth.pipeline.protocols.judge import judge
from tilth.pipeline.protocols.rates import NUMBERS
from tilth.pipeline.protocols.rivals import Ways
from tilth.policy import load_policy
from tilth.runtime.bundles.bundle import digest_of, in_use
from tilth.starter.protocols.folder import POLICY

PARTS = {
    "signs": ("two-stage", 1000),
    "pairs": ("pairs", 1000),
    "flips": ("flips", 600),
    "injection": ("injection", 500),
}  # --images
KEYS = {"signs": ("text", "full_minus_vision_f1", "visual", "all", "latency", "decided_by"), "pairs": ("pairs_right", "pairs"),
        "flips": ("flips_right", "spill", "flips"), "injection": ("injection_flips", "injection")}  # fmt: skip
LEAST = 500  # images of a subset
SHARE = "share"


def drawn(part: str, work: Path, seed: int, images: int) -> Path:
    """Draw the folder of a part and a seed, unless it is there."""
    folder = work / f"{part}-{images}-{seed}"
    if not folder.exists():
        command = [
            sys.executable,
            "-m",
            "tilth.starter",
            part,
            "--out",
            str(folder),
            "--seed",
            str(seed),
            "--images",
            str(images),
        ]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return folder


def judged(part: str, bundle: Path, folder: Path, kept: Path, threads: int) -> dict[str, Any]:
    """Judge a bundle on a folder, unless that was done by the same code, and keep what was found."""
    of = {"commit": commit(), "judged": digest_of(in_use(bundle))}
    told: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    if {name: told.get(name) for name in of} != of:
        told = {**of, **judge(PARTS[part][0], bundle, folder, ways=Ways(threads=threads))}
        kept.write_text(json.dumps(told, indent=1))
    return told


def together(told: Sequence[Mapping[str, Any]]) -> tuple[float, list[float] | None]:
    """Put the same number of several seeds together: their mean, and the widest interval."""
    ends = [one["ci95"] for one in told]
    value = float(np.mean([one["mean"] for one in told]))
    if any(None in end for end in ends):
        return value, None
    return value, [min(low for low, _ in ends), max(high for _, high in ends)]


def add(
    figures: Figures, key: str, told: Sequence[Mapping[str, Any]], n: int, rival: str = "", unit: str = SHARE
) -> None:
    if all(one["mean"] is not None for one in told):
        value, ends = together(told)
        scale = 100 if unit == "points" else 1
        figures.add(key, scale * value, unit, ci95=ends and [scale * end for end in ends], n=n, rival=rival)


def signs(figures: Figures, found: Sequence[Mapping[str, Any]]) -> None:
    """Note what the two-stage protocol found on images with words."""
    subsets = {"text": "text only", "visual": "text + visual", "all": "all"}
    for short, name in subsets.items():
        some = [facts["subsets"][name] for facts in found]
        n = sum(one["images"] for one in some)
        if short != "all" and min(one["images"] for one in some) < LEAST:
            print(
                f"{name}: only {min(one['images'] for one in some)} images in a seed, fewer than {LEAST}",
                file=sys.stderr,
            )
        figures.add(f"{short}.images", n, "images")
        figures.add(f"{short}.unsafe", sum(one["unsafe"] for one in some), "images")
        for who, judge_name in (("full", "full"), ("vision", "vision only"), ("always", "always unsafe")):
            for what in NUMBERS:
                add(figures, f"{short}.{who}.{what}", [one["judges"][judge_name][what] for one in some], n)
    text, visual = ([facts["subsets"][subsets[name]] for facts in found] for name in ("text", "visual"))
    n = sum(one["images"] for one in text)
    for what in ("recall", "precision"):
        add(figures, f"text_{what}", [one["judges"]["full"][what] for one in text], n)
    gain = [one["full_minus"]["vision only"]["f1"] for one in visual]
    add(figures, "full_minus_vision_f1", gain, sum(one["images"] for one in visual), "Stage 1 alone", "points")
    for who, judge_name in (("full", "full"), ("vision", "vision only")):
        for what in ("p50", "p99"):
            figures.add(
                f"latency.{who}.{what}",
                float(np.median([facts["latency_ms"][judge_name][what] for facts in found])),
                "ms",
            )
    figures.add("decided_by.stage2", float(np.mean([facts["decided_by"]["stage2"] for facts in found])), SHARE)


def compared(figures: Figures, part: str, found: Sequence[Mapping[str, Any]]) -> None:
    """Note what a protocol found that compares decisions, of both stages first."""
    names = {
        "pairs": ("pairs_right",),
        "flips": ("flips_right", "spill"),
        "injection": ("injection_flips", "let_through"),
    }[part]
    for what in names:
        for who in found[0]["judges"]:
            told = [facts["judges"][who] for facts in found]
            n = sum(one[what]["cases"] if part == "flips" else one["pairs"] for one in told)
            key = what if who == "full" and what != "let_through" else f"{part}.{who.replace(' ', '_')}.{what}"
            if n:
                add(figures, key, [one[what] for one in told], n)
    if part == "pairs":
        by_kind(figures, found)


def by_kind(figures: Figures, found: Sequence[Mapping[str, Any]]) -> None:
    """Note how many pairs are right in which things differ, and words."""
    written = {one.name for one in load_policy(POLICY).written}
    for who in found[0]["judges"]:
        rows = [(what, row) for facts in found for what, row in facts["judges"][who]["per_category"].items()]
        for kind in ("things", "words"):
            some = [row for what, row in rows if (what in written) is (kind == "words")]
            if n := sum(row["pairs"] for row in some):
                right = sum(row["pairs"] * row["mean"] for row in some) / n
                figures.add(f"pairs.{who.replace(' ', '_')}.{kind}", right, SHARE, n=n)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="that is judged; {seed} in it stands for the seed")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is drawn, and for what was found")
    parser.add_argument("--images", type=int, help="of each folder, in place of what the parts have")
    parser.add_argument("--seeds", default="1,2,3", help="with commas between them (default: %(default)s)")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between them (default: all)")
    parser.add_argument("--threads", type=int, default=0, help="of each model; 0 for all cores")
    add_option(parser)
    args = parser.parse_args()
    seeds, parts = [int(seed) for seed in args.seeds.split(",")], args.only.split(",")
    figures = Figures("two_stage", seeds=seeds)
    args.work.mkdir(parents=True, exist_ok=True)
    for part in parts:
        found = []
        for seed in seeds:
            bundle = Path(str(args.bundle).format(seed=seed))
            folder = drawn(part, args.work, seed, args.images or PARTS[part][1])
            found.append(judged(part, bundle, folder, args.work / f"{folder.name}.json", args.threads))
            print(part, seed, folder, flush=True)
        signs(figures, found) if part == "signs" else compared(figures, part, found)
    figures.carry(args.results, but=[key for part in parts for key in KEYS[part]])
    figures.write(args.results)


if __name__ == "__main__":
    main()
