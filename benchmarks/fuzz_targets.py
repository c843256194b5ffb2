"""What is damaged by `fuzz.py`: a good set of every label format, corpus, list and kind of image, and what must hold of it after."""

import io
import json
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image as PilImage

from tilth.annotate.exchange.importing import Import
from tilth.annotate.formats.parts.records import Boxed, Entry
from tilth.annotate.formats.writing import FORMATS, open_writer
from tilth.claims import Claim
from tilth.data.dataset import Dataset
from tilth.engine.intake import Failed
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.events import Events
from tilth.images import decode, decode_luma, encode_png, read_header
from tilth.mining.corpora.addresses import addresses, check_list, encode
from tilth.mining.corpora.opening import open_corpus
from tilth.policy import Category, Policy
from tilth.samples import NewSample

BOX = (2.0, 3.0, 9.0, 12.0)
SIDE = 16
POLICY = Policy(policy="fuzz", version=1, categories=(Category(name="knife", definition="", prompts=("knife",)),))


class Fault(Exception):
    """A reader did what it must not."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A kind of input.

    Args:
        make: Makes a good one in a folder, and returns those of its files that are to be damaged.
        use: Reads it; gets the folder, the file that is damaged now, and what to draw with.
    """

    make: Callable[[Path], list[Path]]
    use: Callable[[Path, Path, random.Random], None]


def picture(seed: int) -> bytes:
    return encode_png(np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))


def entry(name: str, seed: int) -> Entry:
    return Entry(
        id=name * 64, file=f"{name}.png", data=picture(seed), size_wh=(SIDE, SIDE), split="", state="reviewed",
        labels=(Boxed("knife", BOX, 1.0, "human:me"),),
    )  # fmt: skip


def write_set(folder: Path, format_: str, names: str) -> None:
    folder.mkdir(parents=True)
    writer = open_writer(format_, folder, ("knife",), ("",))
    for name in names:
        writer.add(entry(name, ord(name)))
    writer.close()


class Held(Work):
    """Takes images in as an import does, but keeps what is claimed of them in memory and their pixels nowhere."""

    def add(
        self, key: str, samples: Iterable[NewSample | Failed], total: int | None = None, **_: Any
    ) -> dict[str, int]:
        self.taken: dict[str, tuple[Claim, ...]] = {}
        counts = {"ok": 0, "failed": 0}
        for sample in samples:
            try:
                if isinstance(sample, Failed):
                    raise InputError(sample.error)
                sample.identify()
                json.dumps(dict(sample.origin)).encode()
                self.taken[str(sample.origin["source"])] = sample.claims
                counts["ok"] += 1
            except InputError:
                counts["failed"] += 1
        return counts


def label_set(format_: str) -> Target:
    """Return the target of a label format; `good` is an image with a box in a file of its own, where the format allows that."""
    alone = format_ in ("yolo", "voc", "coco", "classfolders")  # a label file for each image, or for all, or none

    def make(folder: Path) -> list[Path]:
        if alone:
            write_set(folder / "set", format_, "abg")
        else:
            write_set(folder / "set" / "one", format_, "ab")
            write_set(folder / "set" / "two", format_, "g")
        files = sorted(p for p in (folder / "set").rglob("*") if p.is_file() and p.suffix != ".png")
        files = files or sorted(p for p in (folder / "set").rglob("*.png"))  # of folders of classes
        damaged = [p for p in files if "two" not in p.parts and p.stem != "g" and p.name != "label_config.xml"]
        return [p for p in damaged if p.suffix != ".yaml" and p.name != "labelmap.txt"] * 3 + damaged

    def use(folder: Path, damaged: Path, rng: random.Random) -> None:
        auto = rng.random() < 0.2
        with held(folder) as work:
            try:
                Import(path=folder / "set", format="auto" if auto else format_, empty_means="confirmed_empty").run(work)  # type: ignore[arg-type]
            except InputError:
                if (
                    format_ == "coco" or damaged.suffix == ".yaml" or auto
                ):  # the one file of all images, or of all names
                    return
                raise Fault("the whole set was refused") from None
        if format_ == "coco" or auto or damaged.suffix == ".yaml":
            return
        claims = next((claims for name, claims in work.taken.items() if name.endswith(("g.png", "/g"))), None)
        off = [abs(a - b) for a, b in zip(claims[0].box_xyxy or BOX, BOX, strict=True)] if claims else []
        if max(off, default=9) > 1 or (claims[0].box_xyxy is None and format_ != "classfolders"):
            raise Fault(f"the good image came in with {claims}")

    return Target(make=make, use=use)


@contextmanager
def held(folder: Path) -> Iterator[Held]:
    events = Events(None, io.StringIO())
    try:
        yield Held(name="fuzz", dataset=Dataset(folder / "dataset"), policy=POLICY, folder=folder, events=events)
    finally:
        events.close()


GOOD = picture(103)
ABOUT = json.dumps({"license": "CC0-1.0", "url": "https://example.org/g"}).encode()


def rows(*seeds: int) -> pa.Table:
    return pa.table(
        {"image": [picture(seed) for seed in seeds], "url": [f"https://example.org/{seed}" for seed in seeds]}
    )


def write_arrow(path: Path, *seeds: int) -> None:
    table = rows(*seeds)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def corpus(kind: str) -> Target:
    """Return the target of a kind of corpus, of two files but for Lance's tables."""

    def make(folder: Path) -> list[Path]:
        place = folder / "set"
        place.mkdir()
        if kind == "lance":
            lance.write_dataset(rows(1, 2), str(folder / "set.lance"), data_storage_version="stable")
            return sorted(p for p in (folder / "set.lance").rglob("*") if p.is_file())
        if kind == "folder":
            for name, seed in (("0.png", 1), ("g.png", 103)):
                (place / name).write_bytes(picture(seed))
            return [place / "0.png"]
        for name, seeds in (("0", (1, 2)), ("1", (103,))):
            path = place / f"{name}.{kind}"
            if kind == "tar":
                write_set(folder / name, "webdataset", "ab" if name == "0" else "g")
                shutil.move(folder / name / "000000.tar", path)
            elif kind == "parquet":
                pq.write_table(rows(*seeds), path, row_group_size=1)
            else:
                write_arrow(path, *seeds)
        return [place / f"0.{kind}"]

    def use(folder: Path, damaged: Path, rng: random.Random) -> None:
        found: list[bytes] = []
        try:
            opened = open_corpus(str(folder / ("set.lance" if kind == "lance" else "set")))
            for item in opened.items():
                try:
                    data = opened.read(item.key)
                    opened.about(item.key), opened.stamp(item.key)
                    decode(data)
                    found.append(data)
                except InputError:
                    continue
        except InputError:
            if kind == "lance":
                return
            raise Fault("the whole corpus was refused") from None
        if kind != "lance" and GOOD not in found:
            raise Fault("the good image did not come")

    return Target(make=make, use=use)


def url_list(suffix: str) -> Target:
    lines = ["http://h.example/a b.jpg", "https://münchen.example/é.jpg?x=1,2", '"http://[::1]:80/c.png"']
    heads = {".txt": [], ".csv": ["id,url"], ".tsv": ["id\turl"]}

    def make(folder: Path) -> list[Path]:
        between = {".txt": "", ".csv": "7,", ".tsv": "7\t"}[suffix]
        path = folder / f"list{suffix}"
        path.write_text("\n".join([*heads[suffix], *(between + line for line in lines), ""]), encoding="utf-8")
        return [path]

    def use(folder: Path, damaged: Path, rng: random.Random) -> None:
        path = folder / f"list{suffix}"
        try:
            check_list(path)
            for url in addresses(path):
                try:
                    if not encode(url).isascii():
                        raise Fault(f"{url!r} is no address when it is encoded")
                except InputError:
                    continue
        except InputError:
            return

    return Target(make=make, use=use)


def image_file(format_: str) -> Target:
    def make(folder: Path) -> list[Path]:
        exif = PilImage.Exif()
        exif[0x0112] = 6
        path = folder / "image"
        more = {"exif": exif} if format_ not in ("BMP", "GIF") else {}
        PilImage.fromarray(decode(picture(5))).save(path, format_, **more)
        return [path]

    def use(folder: Path, damaged: Path, rng: random.Random) -> None:
        data = (folder / "image").read_bytes()
        for look in (decode, read_header, lambda data: decode_luma(data, at_least=4)):
            try:
                look(data)  # type: ignore[operator]
            except InputError:
                continue

    return Target(make=make, use=use)


TARGETS = {
    **{format_: label_set(format_) for format_ in FORMATS},
    **{f"mine_{kind}": corpus(kind) for kind in ("folder", "tar", "parquet", "arrow", "lance")},
    **{f"list_{suffix[1:]}": url_list(suffix) for suffix in (".txt", ".csv", ".tsv")},
    **{f"image_{kind.lower()}": image_file(kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")},
}
