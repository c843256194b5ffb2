"""The starter's story on disk: a few labelled images, a large unlabelled corpus, a sealed test set, and the truth apart.

labelled/images/*.png, labelled/annotations.json   60 photo-like images with boxes
corpus/*.png, *.jpg                                6,000 images of all styles; some damaged, some near-duplicates
test/images/*.png, test/annotations.json           1,000 images, never to be trained on
truth.jsonl                                        what every corpus and test image shows
"""

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from tilth.images import decode, encode_png, image_id
from tilth.starter.world.scene import COLORS, SAFE_KINDS, STYLES, UNSAFE_KINDS, Spec, render
from tilth.starter.world.sets import scene_rng
from tilth.starter.world.surfaces import SURFACES
from tilth.starter.world.texts import draw_text

TEXT_CATEGORIES = ("gambling_ad", "illicit_sale", "threat")
CATEGORIES = (*UNSAFE_KINDS, "text_area")

# Chance that an image shows each single unsafe kind, and that it shows a sign (half of them against the policy).
SHARES = {"labelled": (0.13, 0.10), "corpus": (0.04, 0.05), "test": (0.08, 0.10)}
SIGN_SIDE, SIDE = 320, 96  # words need pixels
DAMAGED, COPIES, LEAKS = 0.002, 0.03, 0.003  # of the corpus: broken files, near-duplicates, copies of test images

Row = dict[str, object]


def _spec(purpose: str, rng: np.random.Generator, styles: tuple[str, ...]) -> tuple[Spec, str]:
    """Draw what an image of this purpose shows, and the category of its text."""
    unsafe_share, sign_share = SHARES[purpose]
    kinds = [str(k) for k in rng.choice(SAFE_KINDS, int(rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15])), replace=False)]
    if rng.random() < unsafe_share * len(UNSAFE_KINDS):
        kinds[int(rng.integers(len(kinds)))] = str(rng.choice(UNSAFE_KINDS))
    color = lambda: str(rng.choice(list(COLORS)))  # noqa: E731
    things = [(kind, color(), "") for kind in kinds]
    category = ""
    if rng.random() < sign_share:
        category = str(rng.choice(TEXT_CATEGORIES)) if rng.random() < 0.5 else ""
        text = draw_text(rng, category or None, held_out=purpose == "test")
        things = [*things[:1], ("sign", color(), text)]
    return Spec(things=tuple(things), surface=str(rng.choice(list(SURFACES))), style=str(rng.choice(styles))), category


def draw(purpose: str, index: int) -> tuple[bytes, Row]:
    """Render image `index` of a purpose as a PNG file, with its truth."""
    rng = scene_rng(purpose, index)
    spec, text_category = _spec(purpose, rng, ("photo",) if purpose == "labelled" else STYLES)
    side = SIGN_SIDE if any(text for _, _, text in spec.things) else SIDE
    scene = render(spec, rng, side=side)
    labels = [
        {"category": "text_area" if t.kind == "sign" else t.kind, "box_xyxy": t.box_xyxy}
        for t in scene.things
        if (t.kind in UNSAFE_KINDS or t.kind == "sign") and t.visible > 0.2
    ]
    shown = {t.text for t in scene.things if t.visible > 0.2} - {""}
    row: Row = {
        "id": image_id(scene.image),
        "style": scene.style,
        "caption": scene.caption,
        "side": side,
        "labels": labels,
        "text": " ".join(shown),
        "text_category": text_category if shown else "",
    }
    return encode_png(scene.image), row


def _copy_of(data: bytes, rng: np.random.Generator) -> bytes:
    """Re-encode an image a little smaller, as copies on the web are."""
    image = Image.fromarray(decode(data))
    side = round(image.width * rng.uniform(0.85, 0.98))
    out = io.BytesIO()
    image.resize((side, side), Image.Resampling.BICUBIC).save(out, "JPEG", quality=int(rng.integers(70, 92)))
    return out.getvalue()


def _corpus_image(index: int) -> tuple[str, bytes, Row | None]:
    """Return name, file and truth of one corpus image; a damaged file has no truth."""
    chance = np.random.default_rng((55, index)).random()
    rng = np.random.default_rng((56, index))
    name = f"{index:06d}"
    if chance < DAMAGED:
        data, _ = draw("corpus", index)
        return f"{name}.png", data[: len(data) // 3], None
    if chance < DAMAGED + COPIES + LEAKS and index > 100:
        leak = chance < DAMAGED + LEAKS
        data, row = draw("test" if leak else "corpus", int(rng.integers(0, 100 if leak else index)))
        data = _copy_of(data, rng)
        pixels = decode(data)
        scale = pixels.shape[0] / int(str(row["side"]))
        labels = [{**label, "box_xyxy": [v * scale for v in label["box_xyxy"]]} for label in row["labels"]]  # type: ignore[attr-defined]
        return f"{name}.jpg", data, {**row, "id": image_id(pixels), "labels": labels, "side": pixels.shape[0]}
    data, row = draw("corpus", index)
    return f"{name}.png", data, row


def _named(purpose: str, index: int) -> tuple[str, bytes, Row | None]:
    if purpose == "corpus":
        return _corpus_image(index)
    data, row = draw(purpose, index)
    return f"{index:06d}.png", data, row


def _chunk(job: tuple[str, Path, range]) -> list[Row]:
    purpose, folder, indices = job
    rows = []
    for index in indices:
        name, data, row = _named(purpose, index)
        (folder / name).write_bytes(data)
        if row is not None:
            rows.append({**row, "file": name, "split": purpose})
    return rows


def _coco(rows: list[Row]) -> dict[str, object]:
    """Write truth as COCO, with `(x, y, width, height)` boxes."""
    annotations: list[dict[str, object]] = []
    for number, row in enumerate(rows):
        for label in row["labels"]:  # type: ignore[attr-defined]
            x0, y0, x1, y1 = label["box_xyxy"]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 1,
                    "category_id": CATEGORIES.index(label["category"]) + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": 0,
                }
            )
    images = [
        {"id": n + 1, "file_name": row["file"], "width": row["side"], "height": row["side"]}
        for n, row in enumerate(rows)
    ]
    categories = [{"id": n + 1, "name": name} for n, name in enumerate(CATEGORIES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_world(
    out: Path,
    *,
    labelled: int = 60,
    corpus: int = 6000,
    test: int = 1000,
    workers: int | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> bool:
    """Write the world, unless it is there already.

    Args:
        out: Folder to make.
        labelled: Number of labelled images.
        corpus: Number of corpus images.
        test: Number of sealed test images.
        workers: Processes; all cores when None.
        advance: Called with the number of images just written.

    Returns:
        Whether anything was written.
    """
    wanted = {"labelled": labelled, "corpus": corpus, "test": test, "revision": 1}
    stamp = out / "world.json"
    if stamp.exists() and json.loads(stamp.read_text()) == wanted:
        return False
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    folders = {
        "labelled": partial / "labelled" / "images",
        "corpus": partial / "corpus",
        "test": partial / "test" / "images",
    }
    truth: dict[str, list[Row]] = {}
    # Lance's threads do not survive a fork.
    with ProcessPoolExecutor(workers or os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for purpose, folder in folders.items():
            folder.mkdir(parents=True)
            jobs = [(purpose, folder, range(a, min(a + 50, wanted[purpose]))) for a in range(0, wanted[purpose], 50)]
            truth[purpose] = []
            for job, rows in zip(jobs, pool.map(_chunk, jobs), strict=True):
                truth[purpose] += rows
                advance(len(job[2]))
    for purpose in ("labelled", "test"):
        (partial / purpose / "annotations.json").write_text(json.dumps(_coco(truth[purpose])))
    with (partial / "truth.jsonl").open("w") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in _rows(truth))
    (partial / "world.json").write_text(json.dumps(wanted))
    if out.exists():
        shutil.rmtree(out)
    partial.rename(out)  # renamed last, so its existence means the world is whole
    return True


def _rows(truth: dict[str, list[Row]]) -> Iterator[Row]:
    for rows in truth.values():
        yield from rows
