"""The starter's story on disk: a few labelled images, a large unlabelled corpus, a sealed test set, and the truth apart.

labelled/images/*.png, labelled/annotations.json   60 photo-like images with boxes
corpus/*.png, *.jpg                                6,000 images of all styles; some damaged, some near-duplicates
test/images/*.png, test/annotations.json           1,000 images, never to be trained on
examples/*.png                                     only when asked for: unlabelled images of the test's styles
truth.jsonl                                        what every corpus and test image shows
teacher/annotations.json                           only with a weak teacher: what it says of the corpus, with scores

`settings.py` says what of this can be had otherwise.
"""

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tilth.images import decode, encode_png, image_id
from tilth.starter.world.scene import COLORS, Spec, render
from tilth.starter.world.sets import PURPOSES, scene_rng
from tilth.starter.world.settings import SHARES, World
from tilth.starter.world.surfaces import SURFACES
from tilth.starter.world.teacher import said_of
from tilth.starter.world.texts import draw_text

TEXT_CATEGORIES = ("gambling_ad", "illicit_sale", "threat")
RARE = 0.1  # of the images that would show a rare kind in a style do
SIGN_SIDE, SIDE = 320, 96  # words need pixels
DAMAGED = 0.002  # of the corpus are broken files
LEAKED = 100  # test images that have copies in the corpus, or as many as there are copies

Row = dict[str, Any]


def _spec(world: World, purpose: str, index: int, rng: np.random.Generator) -> tuple[Spec, str]:
    """Draw what an image of this purpose shows, and the category of its text."""
    chances, sign_share = world.chances(purpose), SHARES[purpose][1]
    kinds = [str(k) for k in rng.choice(world.safe, int(rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15])), replace=False)]
    if rng.random() < _total(chances):
        kinds[int(rng.integers(len(kinds)))] = _one_of(chances, rng)
    given = world.given_kind(index) if purpose == "labelled" else ""
    if given:
        kinds[-1], sign_share = given, 0.0  # drawn last and without a sign, so that nothing covers it
    color = lambda: str(rng.choice(list(COLORS)))  # noqa: E731
    things = [(kind, color(), "") for kind in kinds]
    category = ""
    if rng.random() < sign_share:
        category = str(rng.choice(TEXT_CATEGORIES)) if rng.random() < 0.5 else ""
        text = draw_text(rng, category or None, held_out=purpose == "test")
        things = [*things[:1], ("sign", color(), text)]
    surface = str(rng.choice(list(SURFACES)))
    style = str(rng.choice(world.styles_of(purpose)))
    if world.rare and purpose != "test":
        things = _thinned(world, style, things, np.random.default_rng((59, PURPOSES[purpose], index, world.seed)))
    return Spec(things=tuple(things), surface=surface, style=style), category


def _total(chances: dict[str, float]) -> float:
    values = list(chances.values())
    return values[0] * len(values) if len({*values}) == 1 else sum(values)


def _one_of(chances: dict[str, float], rng: np.random.Generator) -> str:
    """Draw a kind; kinds of one chance are drawn as they have always been, so that the default world stays what it is."""
    if len({*chances.values()}) == 1:
        return str(rng.choice(list(chances)))
    return str(rng.choice(list(chances), p=np.array([*chances.values()]) / sum(chances.values())))


def _thinned(
    world: World, style: str, things: list[tuple[str, str, str]], rng: np.random.Generator
) -> list[tuple[str, str, str]]:
    """Put something harmless in the place of most things that are rare in a style."""
    shown = {kind for kind, _, _ in things}
    return [
        (str(rng.choice([k for k in world.safe if k not in shown])), color, text)
        if f"{kind}:{style}" in world.rare and rng.random() >= RARE
        else (kind, color, text)
        for kind, color, text in things
    ]


def draw(purpose: str, index: int, world: World | None = None) -> tuple[bytes, Row]:
    """Render image `index` of a purpose as a PNG file, with its truth; of the default world, unless another is given."""
    data, row = _drawn(world or World(), purpose, index)
    return data, {name: value for name, value in row.items() if name != "things"}


def _drawn(world: World, purpose: str, index: int) -> tuple[bytes, Row]:
    rng = scene_rng(purpose, index, world.seed)
    spec, text_category = _spec(world, purpose, index, rng)
    side = SIGN_SIDE if any(text for _, _, text in spec.things) else SIDE
    scene = render(spec, rng, side=side)
    labels = [
        {"category": "text_area" if t.kind == "sign" else t.kind, "box_xyxy": t.box_xyxy}
        for t in scene.things
        if (t.kind in world.unsafe or t.kind == "sign") and t.visible > 0.2
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
        "things": [(t.kind, t.box_xyxy) for t in scene.things],
    }
    return encode_png(scene.image), row


def _copy_of(data: bytes, rng: np.random.Generator) -> bytes:
    """Re-encode an image a little smaller, as copies on the web are."""
    image = Image.fromarray(decode(data))
    side = round(image.width * rng.uniform(0.85, 0.98))
    out = io.BytesIO()
    image.resize((side, side), Image.Resampling.BICUBIC).save(out, "JPEG", quality=int(rng.integers(70, 92)))
    return out.getvalue()


def _corpus_image(world: World, index: int) -> tuple[str, bytes, Row | None]:
    """Return name, file and truth of one corpus image; a damaged file has no truth."""
    seed = (world.seed,) if world.seed else ()
    chance = np.random.default_rng((55, index, *seed)).random()
    rng = np.random.default_rng((56, index, *seed))
    name = f"{index:06d}"
    if chance < DAMAGED:
        data, _ = draw("corpus", index, world)
        return f"{name}.png", data[: len(data) // 3], None
    if chance < DAMAGED + world.copies + world.leaks and index > 100:
        leak = chance < DAMAGED + world.leaks and world.test > 0
        leaked = min(world.test, max(LEAKED, round(world.leaks * world.corpus)))
        data, row = _drawn(world, "test" if leak else "corpus", int(rng.integers(0, leaked if leak else index)))
        data = _copy_of(data, rng)
        pixels = decode(data)
        scale = pixels.shape[0] / int(row["side"])
        labels = [{**label, "box_xyxy": [v * scale for v in label["box_xyxy"]]} for label in row["labels"]]
        things = [(kind, tuple(v * scale for v in box)) for kind, box in row["things"]]
        changed = {"id": image_id(pixels), "labels": labels, "side": pixels.shape[0], "things": things}
        return f"{name}.jpg", data, {**row, **changed}
    data, row = _drawn(world, "corpus", index)
    return f"{name}.png", data, row


def _named(world: World, purpose: str, index: int) -> tuple[str, bytes, Row | None]:
    if purpose == "corpus":
        return _corpus_image(world, index)
    data, row = _drawn(world, purpose, index)
    return f"{index:06d}.png", data, row


def _chunk(job: tuple[World, str, Path, range]) -> tuple[list[Row], list[Row]]:
    """Write some images; return their truth, and what the teacher says of them."""
    world, purpose, folder, indices = job
    rows, said = [], []
    for index in indices:
        name, data, row = _named(world, purpose, index)
        (folder / name).write_bytes(data)
        if row is None:
            continue
        if world.weak_teacher and purpose == "corpus":
            said.append({"file": name, "side": row["side"], "labels": said_of(world, index, row)})
        del row["things"]
        rows.append({**row, "file": name, "split": purpose})
    return rows, said


def _coco(rows: list[Row], names: tuple[str, ...]) -> dict[str, object]:
    """Write truth as COCO, with `(x, y, width, height)` boxes."""
    annotations: list[dict[str, object]] = []
    for number, row in enumerate(rows):
        for label in row["labels"]:
            x0, y0, x1, y1 = label["box_xyxy"]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 1,
                    "category_id": names.index(label["category"]) + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": 0,
                    **({"score": label["score"]} if "score" in label else {}),
                }
            )
    images = [
        {"id": n + 1, "file_name": row["file"], "width": row["side"], "height": row["side"]}
        for n, row in enumerate(rows)
    ]
    categories = [{"id": n + 1, "name": name} for n, name in enumerate(names)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_world(
    out: Path,
    world: World | None = None,
    *,
    workers: int | None = None,
    advance: Callable[[int], None] = lambda n: None,
    **settings: Any,
) -> bool:
    """Write a world, unless it is there already.

    Args:
        out: Folder to make.
        world: What it is to be like; the default world when None.
        workers: Processes; all cores when None.
        advance: Called with the number of images just written.
        settings: Those of `World`, in place of `world`.

    Returns:
        Whether anything was written.
    """
    world = world or World(**settings)
    stamp = out / "world.json"
    if stamp.exists() and json.loads(stamp.read_text()) == json.loads(json.dumps(world.stamp())):
        return False
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    truth, said = _write_images(world, partial, workers, advance)
    for purpose in ("labelled", "test"):
        (partial / purpose / "annotations.json").write_text(json.dumps(_coco(truth[purpose], world.categories)))
    if world.weak_teacher:
        (partial / "teacher").mkdir()
        (partial / "teacher" / "annotations.json").write_text(json.dumps(_coco(said, world.categories)))
    with (partial / "truth.jsonl").open("w") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in _rows(truth))
    (partial / "world.json").write_text(json.dumps(world.stamp()))
    if out.exists():
        shutil.rmtree(out)
    partial.rename(out)  # renamed last, so its existence means the world is whole
    return True


def _write_images(
    world: World, folder: Path, workers: int | None, advance: Callable[[int], None]
) -> tuple[dict[str, list[Row]], list[Row]]:
    """Write all images; return the truth by purpose, and what the teacher says."""
    truth: dict[str, list[Row]] = {}
    said: list[Row] = []
    # Lance's threads do not survive a fork.
    with ProcessPoolExecutor(workers or os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for purpose, (name, count) in world.folders.items():
            place = folder / name
            place.mkdir(parents=True)
            jobs = [(world, purpose, place, range(a, min(a + 50, count))) for a in range(0, count, 50)]
            truth[purpose] = []
            for job, (rows, heard) in zip(jobs, pool.map(_chunk, jobs), strict=True):
                truth[purpose] += rows
                said += heard
                advance(len(job[3]))
    return truth, said


def _rows(truth: dict[str, list[Row]]) -> Iterator[Row]:
    for rows in truth.values():
        yield from rows
