"""What it costs to ask a dataset: counts, choices, bringing the view up to date, whole scans, and the engine around a mapper.

    python benchmarks/dataset.py                       # a million samples in twenty tables
    python benchmarks/dataset.py --samples 10000 100000 1000000

Rows are made up: one table that adds, three with claims, one that drops, one that divides, and fourteen with two numbers each. The
rival is DuckDB on a plain Parquet file of the same columns, warm, in the same run; it is asked the same, and to bring itself up to
date it writes the file anew. For every size the view is made in one process and asked in another,
whose peak memory the system counts (VmHWM) before the rival begins.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from figures import Figures, add_option

from tilth.claims import Claim
from tilth.data.dataset import Dataset
from tilth.data.table import CLAIM, FRAGMENT_ROWS, POOL, RESULT, TableRef, claim_row
from tilth.engine.steps import step
from tilth.engine.work import Work
from tilth.events import Events
from tilth.policy import load_policy
from tilth.samples import Result, Sample

POLICY = Path(__file__).parents[1] / "configs" / "policies" / "starter.yaml"
BATCH = 50_000
MEASURED = 14
TOUCHED = 10_000
MAPPER_S = 0.002  # an image
MAPPED = 8_000
ROUNDS = 5
FILTER = "q0.a >= 0.9 and q1.b < 0.1"  # a hundredth of all
CATEGORIES = ("knife", "pistol", "dice")


def id_of(n: int) -> str:
    return hashlib.sha256(str(n).encode()).hexdigest()


def claims_of(ids: int, source: str, rng: np.random.Generator) -> pa.Array:
    """One claim a sample, of a few kinds."""
    kinds = [
        claim_row(
            Claim(category=c, box_xyxy=(1.0, 2.0, 30.0 + n, 40.0), score=0.5, source=source, evidence={"round": "a1"})
        )
        for n, c in enumerate(CATEGORIES)
    ] + [claim_row(Claim(says="empty", source=source, evidence={"round": "a1"}))]
    flat = pa.array(kinds, CLAIM).take(pa.array(rng.integers(0, len(kinds), ids)))
    return pa.ListArray.from_arrays(pa.array(np.arange(ids + 1, dtype=np.int32)), flat)


def table_rows(
    ids: list[str],
    rng: np.random.Generator,
    *,
    source: str = "",
    columns: Callable[[int], dict[str, object]] | None = None,
) -> pa.RecordBatch:
    n = len(ids)
    texts = [json.dumps(columns(i)) for i in range(n)] if columns else [""] * n
    none = pa.array([[]] * n, pa.list_(CLAIM))
    cells = [ids, ["ok"] * n, [""] * n, claims_of(n, source, rng) if source else none, texts, [""] * n]
    arrays = [pa.array(c, f.type) if isinstance(c, list) else c for c, f in zip(cells, RESULT, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=RESULT)


def write(path: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> int:
    """Write a table as large ones are, ids indexed, and return its version."""
    stream = pa.RecordBatchReader.from_batches(schema, batches)
    lance.write_dataset(stream, str(path), max_rows_per_file=FRAGMENT_ROWS, max_rows_per_group=1024)
    data = lance.dataset(str(path))
    data.create_scalar_index("id", "BTREE")
    return int(lance.dataset(str(path)).version)


def build(root: Path, samples: int) -> Dataset:
    """Write a dataset of made-up rows and return it, its view not yet made."""
    blocks = [range(start, min(start + BATCH, samples)) for start in range(0, samples, BATCH)]

    def pool() -> Iterator[pa.RecordBatch]:
        for block in blocks:
            origin = [
                json.dumps({"licence": "CC0-1.0", "source": f"corpus/{n:09d}.jpg", "step": "mine"}) for n in block
            ]
            cells = [
                [id_of(n) for n in block],
                [b"x" * 64] * len(block),
                [640] * len(block),
                [480] * len(block),
                origin,
            ]
            yield pa.RecordBatch.from_arrays(
                [pa.array(c, f.type) for c, f in zip(cells, POOL, strict=True)], schema=POOL
            )

    data = Dataset(root)
    write(root / "pool.lance", POOL, pool())
    refs: list[TableRef] = []

    def add(name: str, share: float = 1.0, *, adds: bool = False, **rows: object) -> None:
        def parts() -> Iterator[pa.RecordBatch]:
            rng = np.random.default_rng(len(refs))
            for block in blocks:
                ids = [id_of(n) for n in block if n / samples < share]
                if ids:
                    told = {k: v(rng) if k == "columns" else v for k, v in rows.items()}  # type: ignore[operator]
                    yield table_rows(ids, rng, **told)  # type: ignore[arg-type]

        version = write(root / "results" / f"{name}-0.lance", RESULT, parts())
        refs.append(TableRef(step=name, name=f"{name}-0", lance_version=version, adds=adds))

    add("mine", adds=True, columns=lambda rng: lambda i: {"mine.rank": i, "mine.reason": "match"})
    for number in range(MEASURED):
        add(
            f"q{number}",
            columns=lambda rng, n=number: (
                lambda i: {f"q{n}.a": round(rng.random(), 4), f"q{n}.b": round(rng.random(), 4)}
            ),
        )
    add("ground", source="model:starter:grounding@0123456789ab")
    add("second", source="model:other@0123456789ab")
    add("review", 0.05, source="human:ann")
    add("split", columns=lambda rng: lambda i: {"split": str(rng.choice(["train", "train", "train", "val"]))})
    add("words", columns=lambda rng: lambda i: {"words.area": round(rng.random(), 4)})
    data.commit("made up", "", refs)
    return Dataset(root)


@step
class Burn:
    """A mapper that takes its time and does nothing."""

    batch_size: int = 16

    def load(self) -> Callable[[Sequence[Sample]], list[Result]]:
        def burn(samples: Sequence[Sample]) -> list[Result]:
            time.sleep(MAPPER_S * len(samples))
            return [Result(columns={"burnt": 1.0}) for _ in samples]

        return burn


def best(function: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Return the median time of a call, the first left out."""
    function()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


@dataclass
class Rival:
    """DuckDB on a Parquet file of the columns of a view."""

    path: Path

    def __post_init__(self) -> None:
        import duckdb

        self.db = duckdb.connect()
        self.version = duckdb.__version__

    def count(self) -> object:
        return self.db.sql(
            f"select state, split, count(*) from '{self.path}' where dropped is null group by 1, 2"
        ).fetchall()

    def choose(self) -> int:
        where = "dropped is null and m_q0__a >= 0.9 and m_q1__b < 0.1"
        return len(self.db.sql(f"select id from '{self.path}' where {where} order by place").fetchall())

    def scan(self) -> int:
        names = "id, width, height, state, origin, claims, truth, drops"
        rows = self.db.sql(f"select {names} from '{self.path}' where dropped is null")
        return sum(len(some) for some in iter(lambda: rows.fetchmany(8192), []))

    def update(self, touched: pa.Table) -> None:
        self.db.register("touched", touched)
        beside = self.path.with_suffix(".new")
        self.db.sql(
            f"copy (select v.* replace (coalesce(t.state, v.state) as state) from '{self.path}' v left join touched t using (id)) "
            f"to '{beside}' (format parquet)"
        )


def write_parquet(data: Dataset, path: Path) -> None:
    assert data.view._stored is not None
    there = data.view._stored.data
    with pq.ParquetWriter(path, there.schema) as writer:
        for batch in there.to_batches(batch_size=BATCH):
            writer.write_batch(batch)


def make(samples: int, folder: Path) -> dict[str, float]:
    """Make the view from nothing."""
    shutil.rmtree(folder / "data" / "view", ignore_errors=True)
    began, cpu = time.perf_counter(), time.process_time()
    assert Dataset(folder / "data", 1).count() == samples
    told = {"make_s": time.perf_counter() - began, "make_us": (time.process_time() - cpu) / samples * 1e6}
    return told | {"made_mb": peak_mb()}


def measure(samples: int, folder: Path) -> dict[str, float]:
    """Ask, change and map a dataset whose view is there, and then let the rival do the same."""
    told: dict[str, float] = {}
    data = Dataset(folder / "data", 1)
    assert data.count() == samples
    told["count_s"] = best(lambda: data.tally("state", "split"))
    told["filter_s"] = best(lambda: sum(len(ids) for ids in data.ids(FILTER, dropped=False)))
    told["chosen"] = sum(len(ids) for ids in data.ids(FILTER, dropped=False))

    cpu = time.process_time()
    labels = sum(len(sample.truth.labels) for sample in data.samples(images=False))
    told |= {"scan_us": (time.process_time() - cpu) / samples * 1e6, "labels": labels}

    rng = np.random.default_rng(99)
    times = []
    first = len(data.history())  # each round has a table of its own, in a folder that is used again too
    for round_ in range(first, first + 3):
        chosen = sorted(rng.choice(samples, min(TOUCHED, samples // 2), replace=False).tolist())
        ids = [id_of(n) for n in chosen]
        table = data.table(f"touch-{round_}")
        rows = table_rows(
            ids, rng, source=f"model:touch@{round_:012d}", columns=lambda i, n=round_: {f"touch{n}.x": i / 7}
        )
        write(table.path, RESULT, iter([rows]))
        data.attach("touch", data.table(f"touch-{round_}"), "touch", "")
        began = time.perf_counter()
        data.count()
        times.append(time.perf_counter() - began)
    told["update_s"] = float(np.median(times))

    data = data.checkout(1)
    events = Events(folder / "events.jsonl")
    work = Work(name=f"burn{first}", dataset=data, policy=load_policy(POLICY), folder=folder / "files", events=events)
    some = f"q2.a < {min(MAPPED, samples // 2) / samples:.6f}"
    mapped = data.count(some)
    (one,) = data.read(next(data.ids(batch_rows=1)))
    bare_function = Burn().load()
    began = time.perf_counter()
    for _ in range(-(-mapped // 16)):
        bare_function([one] * 16)
    bare = time.perf_counter() - began
    began = time.perf_counter()
    work.map(Burn(), some)
    told |= {"overhead_pct": 100 * ((time.perf_counter() - began) / bare - 1), "mapped": mapped}
    events.close()
    told["peak_mb"] = peak_mb()

    data = data.checkout(1)
    parquet = folder / "rows.parquet"
    write_parquet(data, parquet)
    rival = Rival(parquet)
    told |= {"duckdb_count_s": best(rival.count), "duckdb_filter_s": best(rival.choose)}
    assert rival.choose() == told["chosen"], "the rival chooses other samples"
    cpu = time.process_time()
    assert rival.scan() == samples
    told["duckdb_scan_us"] = (time.process_time() - cpu) / samples * 1e6
    touched = pa.table({"id": ids, "state": ["auto"] * len(ids)})
    told["duckdb_update_s"] = best(lambda: rival.update(touched), 3)
    return told


def peak_mb() -> float:
    """Return the most memory that this process ever held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if "VmHWM" in line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument(
        "--work", type=Path, help="folder for the made-up datasets, which are used again; temporary ones when left out"
    )
    parser.add_argument("--build", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--making", action="store_true", help=argparse.SUPPRESS)
    add_option(parser)
    args = parser.parse_args()
    if args.build:
        build(args.work / "data", args.build)
        return
    if args.child:
        print(json.dumps((make if args.making else measure)(args.child, args.work)))
        return
    figures = Figures("dataset", seeds=[0])
    found: dict[int, dict[str, float]] = {}
    for samples in args.samples:
        with tempfile.TemporaryDirectory() as temporary:
            folder = str(args.work / f"n{samples}" if args.work else temporary)
            if not (Path(folder) / "data" / "versions" / "000001.json").exists():
                shutil.rmtree(Path(folder) / "data", ignore_errors=True)
                subprocess.run([sys.executable, __file__, "--work", folder, "--build", str(samples)], check=True)
            command = [sys.executable, __file__, "--work", folder, "--child", str(samples)]
            for part in (["--making"], []):
                done = subprocess.run([*command, *part], check=True, capture_output=True, text=True)
                found.setdefault(samples, {}).update(json.loads(done.stdout))
        print(samples, {k: round(v, 4) for k, v in found[samples].items()}, flush=True)
    most, least = max(found), min(found)
    told = found[most]
    for key, unit in (("count_s", "s"), ("filter_s", "s"), ("update_s", "s"), ("scan_us", "µs"), ("make_us", "µs")):
        figures.add(key, told[key], unit, n=most)
    figures.add("overhead_pct", told["overhead_pct"], "%", n=int(told["mapped"]))
    ratios = {
        "count": told["count_s"] / told["duckdb_count_s"],
        "filter": told["filter_s"] / told["duckdb_filter_s"],
        "update": told["update_s"] / told["duckdb_update_s"],
        "scan": told["scan_us"] / told["duckdb_scan_us"],
    }
    import duckdb

    for key, ratio in ratios.items():
        figures.add(f"to_duckdb.{key}", ratio, "", rival=f"duckdb {duckdb.__version__}")
    figures.add("to_duckdb", max(ratios.values()), "", rival=f"duckdb {duckdb.__version__}")
    for samples, each in found.items():
        figures.add(f"peak_mb.n{samples}", each["peak_mb"], "MB", n=samples)
        figures.add(f"making_mb.n{samples}", each["made_mb"], "MB", n=samples)
        figures.add(f"scan_us.n{samples}", each["scan_us"], "µs", n=samples) if samples != most else None
    figures.add("memory_growth", found[most]["peak_mb"] / found[least]["peak_mb"], "")
    figures.write(args.results)


if __name__ == "__main__":
    main()
