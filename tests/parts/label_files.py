"""Images, label files written by hand, and what became of them, for the tests that read them."""

import io
import json
from pathlib import Path

import numpy as np
from noise import noise_image
from PIL import Image

from tilth.annotate.formats.parts.orientation import ORIENTATION
from tilth.engine.work import Work
from tilth.samples import Sample

HEADER = "file,width,height,category,x_min,y_min,x_max,y_max,score,state\n"


def images(folder: Path, *names: str, side: int = 16) -> None:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise_image(number, side))


def jpeg(orientation: int, size_wh: tuple[int, int] = (40, 24)) -> bytes:
    """A dark image with one bright box at (4, 6, 14, 20) as stored, to be turned when shown."""
    pixels = np.zeros((size_wh[1], size_wh[0], 3), np.uint8)
    pixels[6:20, 4:14] = 255
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", exif=exif)
    return out.getvalue()


def coco(folder: Path, rows: list[tuple[str, list[tuple[str, list[float]]]]], size: int = 16) -> Path:
    names = sorted({category for _, boxes in rows for category, _ in boxes})
    document = {
        "images": [{"id": n, "file_name": name, "width": size, "height": size} for n, (name, _) in enumerate(rows)],
        "categories": [{"id": n, "name": name} for n, name in enumerate(names)],
        "annotations": [
            {"id": 1, "image_id": n, "category_id": names.index(category), "bbox": box}
            for n, (_, boxes) in enumerate(rows)
            for category, box in boxes
        ],
    }
    path = folder / "annotations.json"
    path.write_text(json.dumps(document))
    return path


def voc(
    path: Path, filename: str, *objects: tuple[str, float, float, float, float], size_wh: tuple[int, int] = (16, 16)
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    things = "".join(
        f"<object><name>{n}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for n, a, b, c, d in objects
    )
    size = f"<size><width>{size_wh[0]}</width><height>{size_wh[1]}</height><depth>3</depth></size>"
    path.write_text(f"<annotation><filename>{filename}</filename>{size}{things}</annotation>")


def cvat(*elements: str) -> str:
    return f"<annotations><version>1.1</version>{''.join(elements)}</annotations>"


def task(image: str, *regions: dict[str, object], **more: object) -> dict[str, object]:
    return {"data": {"image": image}, "annotations": [{"result": list(regions)}], **more}


def region(kind: str = "rectanglelabels", **value: object) -> dict[str, object]:
    box = {"x": 50, "y": 25, "width": 25, "height": 50}
    return {"type": kind, "original_width": 16, "original_height": 16, "value": {**box, kind: ["knife"], **value}}


def row(file: str, box: list[float], **more: object) -> str:
    return json.dumps({"file_name": file, "objects": {"bbox": [box], "categories": ["knife"]}, **more}) + "\n"


def named(work: Work) -> dict[str, Sample]:
    return {str(s.origin["source"]).partition("/")[2]: s for s in work.dataset.samples()}


def boxes(work: Work) -> dict[str, list[object]]:
    return {name: [(c.category, c.box_xyxy) for c in s.truth.labels] for name, s in named(work).items()}
