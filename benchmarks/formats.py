"""How fast label formats are written and read, and how much memory that takes: each format both ways, in processes of its own.

    python benchmarks/formats.py --images 100000
    python benchmarks/formats.py --dataset 10000      # with the dataset and its images

Labels are written alone, for images that lie elsewhere; WebDataset and Parquet carry an image of 2 kB with each sample. Reading
finds every image and goes through all boxes; it opens no image that lies in a file of its own, as their decoding would hide
what the format costs. Memory is the peak of the process; that of a run with a tenth of the images stands beside it, to show what
grows with their number. A rate is by the clock; beside it stands the rate by processor time, which other work on the machine and a
slow disk leave alone (YOLO and VOC make a file for each image, and a disk may make only some hundreds a second).
"""

import argparse
import io
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from figures import Figures, add_option

from tilth.annotate.formats.parts.records import Boxed, Entry, Oddities
from tilth.annotate.formats.reading import open_reader
from tilth.annotate.formats.writing import HOLDS_BOXES, open_writer

NAMES = ("dice", "knife", "pill", "pistol")
SIZE_WH = (640, 480)
IMAGE_BYTES = 2000
CARRIED = ("webdataset", "parquet")
PER_FOLDER = 1000


def place_of(number: int) -> str:
    return f"{number // PER_FOLDER:04d}/{number:07d}.jpg"


def entries(count: int, carried: bool) -> Iterator[Entry]:
    """Make samples with none to four boxes."""
    rng = np.random.default_rng(5)
    noise = rng.bytes(IMAGE_BYTES) if carried else b""
    for number in range(count):
        corners = rng.integers(0, 4096, (number % 5, 4)) / 16
        labels = tuple(
            Boxed(NAMES[(number + n) % 4], (x, y, x + 1 + w, y + 1 + h / 2), 1.0, "human:bench")
            for n, (x, y, w, h) in enumerate(corners.tolist())
        )
        yield Entry(
            id=f"{number:064x}",
            file=f"{number:07d}.jpg" if carried else place_of(number),
            data=noise if carried else None,
            size_wh=SIZE_WH,
            split="",
            state="reviewed" if labels else "confirmed_empty",
            licence="CC0-1.0",
            labels=labels,
        )


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write(format_: str, folder: Path, count: int) -> int:
    folder.mkdir(parents=True)
    writer = open_writer(format_, folder, NAMES, ("",))
    boxes = 0
    for entry in entries(count, format_ in CARRIED):
        writer.add(entry)
        boxes += len(entry.labels)
    writer.close()
    return boxes


def read(format_: str, folder: Path, images: Path, count: int) -> int:
    odd = Oddities()
    reader = open_reader(folder, format_, "", images, odd)[1]  # type: ignore[arg-type]
    seen = boxes = 0
    for found in reader:
        if found.error:
            raise SystemExit(f"{found.name}: {found.error}")
        if format_ in CARRIED and found.read:
            found.read()
        seen += 1
        boxes += len(found.labels)
    if seen != count or odd.counts:
        raise SystemExit(f"{format_}: {seen} of {count} images, {odd.counts}")
    return boxes


def one(way: str, format_: str, out: Path, count: int) -> None:
    """Do one job and print its numbers."""
    began, worked = time.perf_counter(), time.process_time()
    folder = out / f"{format_}-{count}"
    boxes = write(format_, folder, count) if way == "write" else read(format_, folder, out / f"images-{count}", count)
    spent = time.perf_counter() - began
    alone = count / (time.process_time() - worked)
    print(json.dumps({"boxes": boxes, "rate": count / spent, "alone": alone, "peak": peak_mib()}))


def job(way: str, format_: str, out: Path, count: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--job", way, format_, "--out", str(out), "--images", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{way} {format_}: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout))


def through_dataset(out: Path, count: int, results: Path) -> None:
    """Print the rates of whole exports and imports, by the clock and by processor time: most of it is the dataset."""
    from tilth.annotate.exchange.exporting import export
    from tilth.annotate.exchange.importing import Import
    from tilth.claims import Claim
    from tilth.data.dataset import Dataset
    from tilth.engine.work import Work
    from tilth.events import Events
    from tilth.images import encode_png
    from tilth.policy import Category, Policy
    from tilth.samples import NewSample

    figures = Figures("formats_dataset")
    figures.add("images", count, "images")
    shutil.rmtree(out, ignore_errors=True)
    (out / "pictures").mkdir(parents=True)
    for number in range(count):
        pixels = np.frombuffer(np.array([number, 7, 7], np.uint32).tobytes() * 16, np.uint8).reshape(8, 8, 3)
        (out / "pictures" / f"{number:07d}.png").write_bytes(encode_png(pixels))
    policy = Policy(policy="bench", version=1, categories=(Category(name="knife", definition="", prompts=("knife",)),))

    def work(name: str) -> Work:
        return Work(
            name=name,
            dataset=Dataset(out / name),
            policy=policy,
            folder=out,
            events=Events(out / f"{name}.log", io.StringIO()),
        )

    def samples() -> Iterator[NewSample]:
        claims = (Claim(category="knife", box_xyxy=(0, 0, 4, 4), source="human:bench"),)
        for path in sorted((out / "pictures").iterdir()):
            yield NewSample(data=path.read_bytes(), origin={"source": f"pictures/{path.name}"}, claims=claims)

    whole = work("dataset")
    whole.add("images", samples(), count)
    for format_, images in (("coco", "none"), ("coco", "copy"), ("parquet", "copy"), ("webdataset", "copy")):
        began, worked = time.perf_counter(), time.process_time()
        export(whole.dataset, out / f"{format_}-{images}", format_, images=images, say=lambda text: None)
        rates = [count / (time.perf_counter() - began), count / (time.process_time() - worked)]
        print(f"export {format_} --images {images}: {rates[0]:.0f} ({rates[1]:.0f})", flush=True)
        figures.add(f"export.{format_}.{images}.per_s", rates[0], "images/s")
        figures.add(f"export.{format_}.{images}.per_cpu_s", rates[1], "images/s")
    for format_, apart in (("coco-none", out), ("webdataset-copy", None)):
        began, worked = time.perf_counter(), time.process_time()
        facts = Import(path=out / format_, images=apart).run(work(f"from-{format_}"))
        if facts["images"] != count:
            raise SystemExit(f"{format_}: {facts}")
        rates = [count / (time.perf_counter() - began), count / (time.process_time() - worked)]
        print(f"import {format_}: {rates[0]:.0f} ({rates[1]:.0f})", flush=True)
        figures.add(f"import.{format_.replace('-', '.')}.per_s", rates[0], "images/s")
        figures.add(f"import.{format_.replace('-', '.')}.per_cpu_s", rates[1], "images/s")
    figures.write(results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=Path("runs/formats"))
    parser.add_argument("--formats", nargs="+", default=list(HOLDS_BOXES))
    parser.add_argument("--dataset", type=int, help="Measure whole exports and imports of so many images instead.")
    parser.add_argument("--job", nargs=2, help=argparse.SUPPRESS)
    add_option(parser)
    asked = parser.parse_args()
    if asked.dataset:
        return through_dataset(asked.out / "dataset", asked.dataset, asked.results)
    if asked.job:
        return one(*asked.job, asked.out, asked.images)
    figures = Figures("formats", seeds=[5])
    figures.add("images", asked.images, "images")
    shutil.rmtree(asked.out, ignore_errors=True)
    counts = (asked.images // 10, asked.images)
    for count in counts:
        for number in range(count):
            place = asked.out / f"images-{count}" / place_of(number)
            if number % PER_FOLDER == 0:
                place.parent.mkdir(parents=True)
            place.touch()
    print(f"{asked.images} images; samples a second (by processor time), and peak MiB (of a tenth of the images)")
    print(f"{'format':12} {'write/s':>16} {'read/s':>16} {'write MiB':>12} {'read MiB':>12}  size MiB")
    for format_ in asked.formats:
        small, large = ({way: job(way, format_, asked.out, count) for way in ("write", "read")} for count in counts)
        if any(row["boxes"] != large["write"]["boxes"] for row in large.values()):
            raise SystemExit(f"{format_}: {large} do not have the same boxes")
        folder = asked.out / f"{format_}-{asked.images}"
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 2**20
        rates = [f"{large[way]['rate']:.0f} ({large[way]['alone']:.0f})" for way in ("write", "read")]
        peaks = [f"{large[way]['peak']:.0f} ({small[way]['peak']:.0f})" for way in ("write", "read")]
        print(f"{format_:12} {rates[0]:>16} {rates[1]:>16} {peaks[0]:>12} {peaks[1]:>12}  {size:.0f}", flush=True)
        for way in ("write", "read"):
            figures.add(f"{format_}.{way}.per_s", large[way]["rate"], "samples/s")
            figures.add(f"{format_}.{way}.per_cpu_s", large[way]["alone"], "samples/s")
            figures.add(f"{format_}.{way}.peak_mib", large[way]["peak"], "MiB")
            figures.add(f"{format_}.{way}.peak_of_a_tenth_mib", small[way]["peak"], "MiB")
        figures.add(f"{format_}.size_mib", size, "MiB")
        for count in counts:
            shutil.rmtree(asked.out / f"{format_}-{count}")
    figures.write(asked.results)


if __name__ == "__main__":
    main()
