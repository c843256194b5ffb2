"""The gallery: pages to look through a dataset, with every box, who says so, and what the clean-up took.

One `index.html` holds the page and what is known of the samples; pictures are files beside it that the browser loads as they
come into view. A name that ends in `.html` gets one file with the pictures inside, to be sent to somebody. Nothing comes from
elsewhere, and the page's content policy lets no other script or style run. What may be unsafe is blurred and grey until asked
for; a picture on a hash list is neither decoded nor shown. A text stands in the page, and is written as text alone: no markup in it counts,
letters that are not seen are named, and until asked for its letters are others.
"""

import base64
import hashlib
import io
import json
import os
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import numpy as np
from PIL import Image as PilImage

from tilth.annotate.boxes.draw import blurred, colour_of, contact_sheet, overlay
from tilth.claims import Json
from tilth.data.dataset import Dataset
from tilth.errors import InputError, Quarantined
from tilth.images import Image, encode_png, fit_within
from tilth.pipeline.gallery.records import Names, record
from tilth.pipeline.report.dataset import Few
from tilth.pipeline.report.pictures import is_known_safe, is_listed
from tilth.policy import Policy
from tilth.samples import TEXT, Sample

TEMPLATES = Path(__file__).parent / "templates"
JPEG_QUALITY = 84
BATCH_ROWS = 64  # images in memory at once
MOST_IN_ONE_FILE = 2_000
ON_A_SHEET = 48
SHEET_SIDE = 224
MARK = "tilth-gallery"  # in the first line of a page of ours, which may be written anew


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """How to write a gallery.

    Args:
        dataset: Open at the version to show.
        policy: Decides what is veiled; without one every picture is.
        side: Pixels of the longer side of a picture.
        where: Keeps the samples that this condition holds for.
    """

    dataset: Dataset
    policy: Policy | None = None
    side: int = 640
    where: str = ""

    def write(self, out: Path) -> dict[str, Json]:
        """Write the gallery and return how many pictures it shows.

        Raises:
            InputError: `out` holds something else, or is one file for too many pictures.
        """
        out = out.resolve()  # a dot has no name to write beside
        single = out.suffix == ".html"
        if out.exists() and not _is_ours(out):
            raise InputError(f"{out}: is not a gallery and would be overwritten; name another place with --out")
        if single and (count := self.dataset.count(self.where, dropped=True)) > MOST_IN_ONE_FILE:
            raise InputError(
                f"{out}: one file holds at most {MOST_IN_ONE_FILE} samples, the dataset has {count}; "
                f"name a folder: --out {out.with_suffix('')}"
            )
        partial = out.with_name(out.name + ".partial")
        _remove(partial)
        if single:
            facts = self._page(partial, None)
        else:
            partial.mkdir(parents=True)
            facts = self._page(partial / "index.html", partial / "pictures")
        if not single:
            _remove(out)
        os.replace(partial, out)
        return {"page": str(out if single else out / "index.html"), **facts}

    def _page(self, path: Path, pictures: Path | None) -> dict[str, Json]:
        path.parent.mkdir(parents=True, exist_ok=True)
        head, tail = _shell()
        told = _Told()
        with path.open("w", encoding="utf-8") as page:
            page.write(head)
            for samples in self.dataset.scan(self.where, dropped=True, batch_rows=BATCH_ROWS):
                _embed(page, "records", [r for sample in samples if (r := self._record(sample, pictures, told))])
            _embed(page, "meta", self._meta(told))
            page.write(tail)
            page.flush()
            os.fsync(page.fileno())
        return dict(told.counts)

    def _meta(self, told: "_Told") -> dict[str, Json]:
        return {
            "name": self.dataset.root.resolve().name,
            "run": self.dataset.root.resolve().parent.name if self.dataset.root.resolve().name == "dataset" else "",
            "version": self.dataset.at.number,
            "policy": f"{self.policy.policy} v{self.policy.version}" if self.policy else "",
            "categories": list(told.categories.numbers),
            "colours": ["#{:02x}{:02x}{:02x}".format(*colour_of(name)) for name in told.categories.numbers],
            "sources": list(told.sources.numbers),
            "listed": told.counts["on_a_hash_list"],
            "damaged": told.counts["damaged"],
        }

    def _record(self, sample: Sample, pictures: Path | None, told: "_Told") -> dict[str, Json] | None:
        veiled = self.veiled(sample)
        if sample.media == TEXT:
            told.counts["shown"] += 1
            told.counts["veiled"] += veiled
            return record(sample, "", veiled, told.categories, told.sources)
        try:
            image = fit_within(self.picture(sample), self.side)
        except InputError as error:
            told.counts["on_a_hash_list" if isinstance(error, Quarantined) else "damaged"] += 1
            return None
        data = _jpeg(image)
        if pictures is None:
            address = "data:image/jpeg;base64," + base64.b64encode(data).decode()
        else:
            file = pictures / sample.id[:2] / f"{sample.id}.jpg"  # no folder grows too large to be listed
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
            address = f"pictures/{sample.id[:2]}/{file.name}"
        told.counts["shown"] += 1
        told.counts["veiled"] += veiled
        return record(sample, address, veiled, told.categories, told.sources)

    def picture(self, sample: Sample) -> Image:
        """Decode the image of a sample.

        Raises:
            Quarantined: It is on a hash list.
            InputError: It is damaged.
        """
        why = "it was before" if is_listed(sample) else None
        image = None if why else sample.pixels()
        if image is not None and self.dataset.guard:
            why = self.dataset.guard(image)
        if image is None or why:
            raise Quarantined(f"sample {sample.id[:12]} is on a hash list: {why}")
        return image

    def veiled(self, sample: Sample) -> bool:
        """Tell whether a sample is blurred until somebody asks for it."""
        return self.policy is None or not is_known_safe(sample, self.policy)

    def sheet(self, out: Path, *, unveiled: bool = False) -> dict[str, Json]:
        """Write a PNG of a few samples with their boxes, the same ones every time, and count them.

        Args:
            out: The file.
            unveiled: Show what would be veiled.

        Raises:
            InputError: There is nothing to show.
        """
        drawn = Few(ON_A_SHEET)
        for ids in self.dataset.ids(self.where, dropped=False):
            for id_ in ids:
                drawn.offer(id_)
        tiles, veiled = [], 0
        for sample in self.dataset.read(drawn.ids()):
            try:
                image = self.picture(sample)
            except InputError:
                continue
            if unveiled or not self.veiled(sample):
                tiles.append(overlay(image, sample.truth.labels, side=SHEET_SIDE))
            else:
                veiled += 1
                grey = np.asarray(PilImage.fromarray(blurred(image)).convert("L").convert("RGB"))
                tiles.append(overlay(grey, [], side=SHEET_SIDE))
        if not tiles:
            raise InputError(f"{self.dataset.root}: no image to put on a sheet; import or mine some first")
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = out.with_name(out.name + ".partial")
        partial.write_bytes(encode_png(contact_sheet(tiles, side=SHEET_SIDE)))
        os.replace(partial, out)
        return {"shown": len(tiles), "veiled": veiled}


@dataclass
class _Told:
    """What has been met on the way through the dataset."""

    categories: Names = field(default_factory=Names)
    sources: Names = field(default_factory=Names)
    counts: Counter[str] = field(
        default_factory=lambda: Counter({"shown": 0, "veiled": 0, "on_a_hash_list": 0, "damaged": 0})
    )


def _shell() -> tuple[str, str]:
    """Return the page before and after its data."""
    page, css, js = ((TEMPLATES / f"gallery.{kind}.j2").read_text(encoding="utf-8") for kind in ("html", "css", "js"))
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(t.encode()).digest()).decode()}'" for t in (css, js)]
    for name, text in (("STYLE_HASH", hashes[0]), ("SCRIPT_HASH", hashes[1]), ("STYLE", css), ("SCRIPT", js)):
        page = page.replace("{{ " + name + " }}", text)
    head, _, tail = page.partition("{{ DATA }}\n")
    return head, tail


def _embed(page: TextIO, kind: str, data: Json) -> None:
    """Write data into the page; no text in it can end the element, as it has no angle bracket left."""
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    page.write(f'<script type="application/json" class="{kind}">{text}</script>\n')


def _jpeg(image: Image) -> bytes:
    out = io.BytesIO()
    PilImage.fromarray(np.ascontiguousarray(image)).save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()


def _is_ours(out: Path) -> bool:
    page = out / "index.html" if out.is_dir() else out
    if not page.is_file():
        return out.is_dir() and not any(out.iterdir())
    with page.open("rb") as stream:
        return MARK.encode() in stream.readline(200)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
