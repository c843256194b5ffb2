"""Near-duplicates among short texts, from a table to a cleaned set, beside datatrove's MinHash.

    python benchmarks/minhash.py --datatrove /envs/datatrove/bin/python --work /tmp/minhash
    python benchmarks/minhash.py --datatrove … --work … --texts 1000000 --rounds 1

Texts of 6 to 20 drawn words; to one in five there is a copy: with a word behind it, with one word changed, or with letters that are
disguised (digits, Cyrillic, invisible ones). Both read the same JSON Lines. Tilth takes them into a dataset (`import.text`) and drops
all but one of each group (`dedup.text`); datatrove 0.10 runs its four stages with its defaults (5 words, 14 buckets of 8) and writes
what is left. Each in a process of its own, one after the other; seconds are of the processor, children too, with those of the imports.
Recall is the share of copies that went; precision the share of what went that was a copy, or has one. `--texts` twice as large shows what
grows. Takes about two minutes a round of 100,000 texts.
"""

import argparse
import json
import random
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from figures import Figures, add_option

POLICY = "policy: words\nversion: 1\ncategories: [{name: adverts, evidence: text, definition: adverts}]\n"
RECIPE = "recipe: words\npolicy: {policy}\nsteps:\n  - import.text: {{path: {table}}}\n  - dedup.text\n"
TWINS = str.maketrans("aeoc", "\u0430\u0435\u043e\u0441")
KINDS = ("longer", "word", "hidden")

DATATROVE = """
import sys
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

source, work = sys.argv[1:3]
config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
read = lambda: JsonlReader(source, glob_pattern="*.jsonl")
out = JsonlWriter(f"{work}/removed", compression=None, output_filename="gone.jsonl")
stages = [
    [read(), MinhashDedupSignature(output_folder=f"{work}/signatures", config=config)],
    [MinhashDedupBuckets(input_folder=f"{work}/signatures", output_folder=f"{work}/buckets", config=config)],
    [MinhashDedupCluster(input_folder=f"{work}/buckets", output_folder=f"{work}/ids", config=config)],
    [read(), MinhashDedupFilter(input_folder=f"{work}/ids", exclusion_writer=out), JsonlWriter(f"{work}/kept", compression=None)],
]
for number, stage in enumerate(stages):
    tasks = config.num_buckets if number == 1 else 1
    LocalPipelineExecutor(stage, tasks=tasks, workers=1, logging_dir=f"{work}/logs{number}").run()
"""


def write(path: Path, count: int, seed: int) -> dict[str, tuple[str, str]]:
    """Write a table, and return of each row in a pair its partner and the kind of copy."""
    rng = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(rng.choice(letters) for _ in range(rng.randint(2, 9))) for _ in range(20_000)]
    partners: dict[str, tuple[str, str]] = {}
    with path.open("w", encoding="utf-8") as stream:
        for number in range(count):
            text = " ".join(rng.choice(words) for _ in range(rng.randint(6, 20)))
            stream.write(json.dumps({"id": str(number), "text": text}, ensure_ascii=False) + "\n")
            if number % 5 == 0:
                kind, name = KINDS[number // 5 % len(KINDS)], f"{number}c"
                stream.write(
                    json.dumps({"id": name, "text": copied(text, kind, words, rng)}, ensure_ascii=False) + "\n"
                )
                partners |= {name: (str(number), kind), str(number): (name, kind)}
    return partners


def copied(text: str, kind: str, words: list[str], rng: random.Random) -> str:
    if kind == "longer":
        return f"{text} {rng.choice(words)}"
    if kind == "word":
        parts = text.split()
        parts[rng.randrange(len(parts))] = rng.choice(words)
        return " ".join(parts)
    return rng.choice([text.translate(TWINS), "\u200b".join(text), text.replace("e", "3").replace("o", "0")])


def timed(command: list[str]) -> tuple[float, float, float]:
    """Run a program; return its seconds, those of the processor, and the most memory of it or a child, in MB."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    watched = [sys.executable, "-c", WATCH, *command]
    told = subprocess.run(watched, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - began, used, float(told.splitlines()[-1])


WATCH = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
sys.exit(code)
"""


def judged(gone: set[str], partners: dict[str, tuple[str, str]]) -> dict[str, float]:
    """Return recall by kind of copy, and precision."""
    hits: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    for name, (other, kind) in partners.items():
        if name.endswith("c"):
            hits[kind].append(bool({name, other} & gone))
    precision = float(np.mean([name in partners for name in gone])) if gone else 1.0
    return {**{kind: float(np.mean(found)) for kind, found in hits.items()}, "precision": precision}


def ours(work: Path, table: Path) -> tuple[tuple[float, float, float], set[str]]:
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    (work / "policy.yaml").write_text(POLICY)
    (work / "recipe.yaml").write_text(RECIPE.format(policy=work / "policy.yaml", table=table))
    command = ["-m", "tilth.pipeline.cli.main", "run", str(work / "recipe.yaml"), "--runs", str(work), "--name", "run"]
    took = timed([sys.executable, *command])
    from tilth.data.dataset import Dataset

    cells = Dataset(work / "run" / "dataset").cells("source", where="dropped is not null", dropped=True)
    return took, {str(source).rpartition("#")[2] for (source,) in cells}


def theirs(work: Path, table: Path, python: str) -> tuple[tuple[float, float, float], set[str]]:
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    took = timed([python, "-c", DATATROVE, str(table.parent), str(work)])
    with (work / "removed" / "gone.jsonl").open() as stream:
        return took, {str(json.loads(line)["id"]) for line in stream}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datatrove", required=True, help="Python that has datatrove[io,processing] and spacy")
    parser.add_argument("--work", type=Path, required=True, help="folder for tables and results")
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    add_option(parser)
    args = parser.parse_args()
    figures = Figures("minhash", seeds=range(args.rounds))
    found: dict[str, list[dict[str, float]]] = {"tilth": [], "datatrove": []}
    for seed in range(args.rounds):
        table = args.work / f"table-{seed}" / "texts.jsonl"
        table.parent.mkdir(parents=True, exist_ok=True)
        partners = write(table, args.texts, seed)
        for name in found if seed % 2 == 0 else reversed(found):
            place = args.work / name
            (wall, cpu, memory), gone = ours(place, table) if name == "tilth" else theirs(place, table, args.datatrove)
            row = {"wall_s": wall, "cpu_s": cpu, "mb": memory, **judged(gone, partners)}
            found[name].append(row)
            print(f"round {seed} {name:9} " + "  ".join(f"{k} {v:.3f}" for k, v in row.items()), flush=True)
    for name, rows in found.items():
        for what in rows[0]:
            unit = "s" if what.endswith("_s") else "MB" if what == "mb" else "share"
            figures.add(f"{name}.{what}", float(np.mean([row[what] for row in rows])), unit, n=len(rows))
    ratios = [b["cpu_s"] / a["cpu_s"] for a, b in zip(found["tilth"], found["datatrove"], strict=True)]
    figures.add("texts", args.texts * 1.2, "count")
    figures.add("speedup", float(np.mean(ratios)), "ratio", ci95=(min(ratios), max(ratios)), n=len(ratios))
    print(f"{np.mean(ratios):.2f} times datatrove's rate by processor time ({min(ratios):.2f} to {max(ratios):.2f})")
    figures.write(args.results)


if __name__ == "__main__":
    main()
