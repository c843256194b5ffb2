"""What models say of images, kept on disk, so that thresholds can change without running the models again.

One line an image; files are written and read line by line, as all predictions of a large set would not fit in memory.
"""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tilth.engine.job import batched
from tilth.train.judge.predict import BATCH, Asked
from tilth.train.measure.prediction import Prediction, Predictions, Target


def predict(predictor: Asked, targets: Iterable[Target], path: Path, advance: Any) -> set[str]:
    """Predict whatever `path` lacks, append it there, and return the ids of the targets."""
    done, ids = {p.id for p in read_predictions(path)}, set[str]()
    with path.open("a") as stream:
        for batch in batched(targets, BATCH):
            todo = [t for t in {t.id: t for t in batch}.values() if t.id not in done]
            for target, (logits, boxes) in zip(todo, predictor([t.image for t in todo]) if todo else [], strict=True):
                truth_boxes = [
                    [*map(float, b), c] for b, c in zip(target.boxes_xyxy, target.box_categories, strict=True)
                ]
                row = Prediction(
                    id=target.id, file=target.file, part=target.part, truth=target.categories, truth_boxes=truth_boxes,
                    logits=logits, boxes=boxes, unasked=target.unasked, chances=dict(target.chances),
                    size_wh=(target.image.shape[1], target.image.shape[0]),
                )  # fmt: skip
                stream.write(json.dumps(vars(row)) + "\n")
                done.add(target.id)
            stream.flush()
            ids |= {t.id for t in batch}
            advance(len(batch))
    return ids


def read_predictions(path: Path, ids: set[str] | None = None) -> Iterator[Prediction]:
    """Read predictions one by one; a torn last line, left by a kill, is cut off.

    Args:
        path: The file; nothing is read where it is not there.
        ids: Of the images that are wanted; all when None.
    """
    if not path.exists():
        return
    whole = 0
    with path.open("rb") as stream:
        for line in stream:
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            row = json.loads(line)
            if ids is None or row["id"] in ids:
                told = {name: tuple(row.get(name, ())) for name in ("truth", "unasked")}
                yield Prediction(**{**row, **told, "size_wh": tuple(row.get("size_wh", (0, 0)))})
    if whole < path.stat().st_size:
        os.truncate(path, whole)


def read_columns(path: Path, categories: Iterable[str], ids: set[str] | None = None) -> Predictions:
    """Read what a file says of these categories, to be measured."""
    return Predictions.of(read_predictions(path, ids), tuple(categories))
