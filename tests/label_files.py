"""Label files written by hand, for the tests that read them."""

import json

from test_annotate_import import named

from tilth.work import Work

HEADER = "file,width,height,category,x_min,y_min,x_max,y_max,score,state\n"


def cvat(*elements: str) -> str:
    return f"<annotations><version>1.1</version>{''.join(elements)}</annotations>"


def task(image: str, *regions: dict[str, object], **more: object) -> dict[str, object]:
    return {"data": {"image": image}, "annotations": [{"result": list(regions)}], **more}


def region(kind: str = "rectanglelabels", **value: object) -> dict[str, object]:
    box = {"x": 50, "y": 25, "width": 25, "height": 50}
    return {"type": kind, "original_width": 16, "original_height": 16, "value": {**box, kind: ["knife"], **value}}


def row(file: str, box: list[float], **more: object) -> str:
    return json.dumps({"file_name": file, "objects": {"bbox": [box], "categories": ["knife"]}, **more}) + "\n"


def boxes(work: Work) -> dict[str, list[object]]:
    return {name: [(c.category, c.box_xyxy) for c in s.truth.labels] for name, s in named(work).items()}
