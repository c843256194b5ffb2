"""Look through a dataset: pages of sixty pictures, each one block of HTML made from the dataset's view, and blurred until asked for."""

import contextlib
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import FastAPI, HTTPException
from fastapi.responses import HTMLResponse, Response
from PIL import Image as PilImage

from tilth.data.dataset import Dataset
from tilth.errors import InputError, TilthError
from tilth.images import fit_within
from tilth.mining.copies.listed import guard_of
from tilth.pipeline.console.commands import Command
from tilth.pipeline.console.look import document, render, run_at, same_text
from tilth.pipeline.console.runs import Seen, all_runs, look
from tilth.pipeline.gallery.page import Gallery
from tilth.policy import load_policy
from tilth.samples import IMAGE, Sample

if TYPE_CHECKING:
    from tilth.pipeline.console.runs import Console

ON_A_PAGE = 60
SIDE, LARGE = 224, 900  # pixels of the longer side
JPEG_QUALITY = 78
FOREVER = {"cache-control": "private, max-age=86400, immutable"}  # an id is of its pixels


@dataclass(frozen=True, kw_only=True)
class Page:
    """One page of pictures.

    Args:
        tiles: What is said of each picture.
        count: Pictures in all that the condition holds for.
        number: Of the page, from 1.
        pages: How many there are.
        states: Pictures by state, of all.
        version: Of the dataset.
    """

    tiles: tuple[Mapping[str, Any], ...]
    count: int
    number: int
    pages: int
    states: Mapping[str, int]
    version: int


def add_to(app: FastAPI, console: "Console") -> None:
    """Add these pages to the application."""

    @app.get("/run/{name}/picture/{id_}.jpg")
    def picture(name: str, id_: str, side: int = SIDE) -> Response:
        try:
            seen = look(console.runs, name)
            gallery = _opened(seen)
            [sample] = gallery.dataset.read([id_])
            image = fit_within(gallery.picture(sample), LARGE if side > SIDE else SIDE)
        except TilthError as error:  # on a hash list, damaged, or not there: no picture is shown
            raise HTTPException(404, str(error)) from error
        out = io.BytesIO()
        PilImage.fromarray(np.ascontiguousarray(image)).save(out, "JPEG", quality=JPEG_QUALITY)
        return Response(out.getvalue(), media_type="image/jpeg", headers=FOREVER)

    @app.get("/run/{name}/pictures", response_class=HTMLResponse)
    def pictures(name: str, page: int = 1, where: str = "") -> str:
        parts: list[str] = []
        try:
            seen = look(console.runs, name)
            if seen.dataset is None:
                why, back = "The run has taken none in so far.", run_at(name)
                parts.append(render("empty", what="No pictures yet", why=why, link=back, go="Back to the run"))
            else:
                parts.append(render("pictures", name=name, page=read_page(seen, page, where), where=where))
                told = [*(["--policy", seen.policy] if seen.policy else []), *(["--where", where] if where else [])]
                parts.append(same_text(Command.of("gallery", seen.dataset, *told, "--out", seen.folder / "gallery")))
        except TilthError as error:
            parts.append(render("problem", lines=str(error).splitlines()))
            parts.append(
                render(
                    "next", link=run_at(name, "pictures") if where else "/", go="Show all" if where else "To the runs"
                )
            )
        return document("Pictures", *parts, at="pictures", run=name)


def _opened(seen: Seen) -> Gallery:
    """Open the newest version of a run's dataset with its policy; the same one is not opened twice."""
    root = seen.dataset
    if root is None:
        raise InputError(f"{seen.name}: has no dataset yet")
    newest = max((int(path.stem) for path in (root / "versions").glob("*.json")), default=0)
    policy = seen.policy if seen.policy and seen.policy.exists() else None
    digest = hashlib.sha256(policy.read_bytes()).hexdigest() if policy else ""
    swept = root / "quarantine.jsonl"
    return _open(root, newest, policy, digest, swept.stat().st_size if swept.exists() else 0)


@lru_cache(maxsize=4)
def _open(root: Path, version: int, policy: Path | None, digest: str, swept: int) -> Gallery:
    """See `_opened`; policy's digest and length of the quarantine's log are asked for only to be opened anew when they change."""
    rules = load_policy(policy) if policy else None
    dataset = Dataset(root, version, guard_of(rules) if rules else None, media=(IMAGE,))
    return Gallery(dataset=dataset, policy=rules)


def warm(console: "Console") -> None:
    """Open the newest dataset there is, so that whoever comes for its pictures does not wait for what is only slow once."""
    with contextlib.suppress(TilthError, OSError):
        for seen in all_runs(console.runs):
            if seen.dataset is not None:
                read_page(seen, 1)
                return


def read_page(seen: Seen, number: int, where: str = "") -> Page:
    """Read a page of pictures.

    Args:
        seen: The run.
        number: Of the page, from 1; what is beyond the last is the last.
        where: A condition, as of `tilth count --where`.

    Raises:
        InputError: The condition is none.
    """
    gallery = _opened(seen)
    view = gallery.dataset.view
    count = view.count(where, dropped=True)
    pages = max(1, -(-count // ON_A_PAGE))
    number = min(max(1, number), pages)
    ids = next(islice(view.ids(where, dropped=True, batch_rows=ON_A_PAGE), number - 1, number), [])
    states = {str(state): n for (state,), n in view.tally(["state"], dropped=True).items()}
    tiles = tuple(_tile(sample, gallery) for sample in gallery.dataset.read(ids, images=False))
    return Page(tiles=tiles, count=count, number=number, pages=pages, states=states, version=gallery.dataset.at.number)


def _tile(sample: Sample, gallery: Gallery) -> dict[str, Any]:
    labels = [claim for claim in sample.truth.labels if claim.category]
    names = ", ".join(dict.fromkeys(str(claim.category) for claim in labels))
    state = sample.state.value
    width, height = sample.size_wh
    boxes = [{"name": c.category, "style": _style(c.box_xyxy, width, height)} for c in labels if c.box_xyxy is not None]
    return {
        "id": sample.id,
        "names": names
        or {"confirmed_empty": "nothing here", "unlabelled": "not labelled"}.get(state, state.replace("_", " ")),
        "state": state.replace("_", " "),
        "split": sample.split or "",
        "veiled": gallery.veiled(sample),
        "dropped": "; ".join(f"left out by {step}: {why}" for step, why in sample.drops),
        "size": (width, height),
        "boxes": boxes,
    }


def _style(box: Any, width: int, height: int) -> str:
    left, top, right, bottom = (float(v) for v in box)
    return (
        f"left:{100 * left / width:.2f}%;top:{100 * top / height:.2f}%;"
        f"width:{100 * (right - left) / width:.2f}%;height:{100 * (bottom - top) / height:.2f}%"
    )
