"""Label Studio: a JSON list of tasks; what a person drew are annotations, what a model says are predictions."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tilth.annotate.formats.parts.files import write_image
from tilth.annotate.formats.parts.listing import Listed
from tilth.annotate.formats.parts.objects import NO_BOX
from tilth.annotate.formats.parts.records import Entry, Found, Named
from tilth.annotate.formats.parts.texts import ends, json_lists
from tilth.annotate.labelstudio.tasks import EMPTY, IMAGE, SHOWS, UNUSABLE, WHOLE, corners, make_interface, make_region
from tilth.claims import State
from tilth.images import SUFFIXES

FILE, INTERFACE = "tasks.json", "label_config.xml"
SERVED = "/data/local-files/?d="
UPLOAD_PREFIX = 9  # letters that the server puts before the name of an uploaded file: eight and a hyphen
SHAPES = {"polygonlabels": "polygon, taken as the box around it"}
NO_SHAPE = ("brushlabels", "keypointlabels", "ellipselabels", "polygon", "brush", "keypoint", "ellipse")


def looks_like_tasks(path: Path) -> bool:
    """Tell whether a JSON file begins as a list of tasks does."""
    head, _ = ends(path)
    return head.startswith("[") and '"data"' in head


class LabelStudio(Listed):
    """Reads every `.json` of tasks under a folder, or one; of several annotations the newest that was not skipped counts."""

    suffixes = (".json",)

    def in_file(self, file: str, place: Path) -> Iterator[Found]:
        """Yield the images in the order of the tasks."""
        for number, (_, task) in enumerate(json_lists(place, ("",))):
            yield self._task(file, number, task)

    def _task(self, file: str, number: int, task: object) -> Found:
        where = f"{file}[{number}]"
        data = task.get("data") if isinstance(task, dict) else None
        if not isinstance(task, dict) or not isinstance(data, dict):
            return Found(name=where, label_file=file, error="a task is an object with data")
        name, state = _image(data), str(data.get("state") or "")
        result = self._result(task, name or where)
        if result is None:  # nobody has looked, neither person nor model
            return self.found(name, file, state=state or State.UNLABELLED)
        said = {choice for region in result if region.get("from_name") != SHOWS for choice in _choices(region)}
        if any(region.get("from_name") == SHOWS for region in result):
            self.odd.note("category of the image without a box, skipped", name or where)
        labels = tuple(label for region in result for label in self._region(region, name or where))
        if UNUSABLE in said:
            return Found(name=name or where, label_file=file, error="a person called the image unusable")
        if EMPTY in said:
            state = State.CONFIRMED_EMPTY
        return self.found(name, file, labels=labels, state=state)

    def _result(self, task: Mapping[str, Any], where: str) -> list[Mapping[str, Any]] | None:
        spoken = [a for a in task.get("annotations") or [] if isinstance(a, dict) and not a.get("was_cancelled")]
        if len(spoken) > 1:
            self.odd.note("several annotations of an image, the newest taken", where)
        spoken.sort(key=lambda a: str(a.get("updated_at") or ""))
        chosen = spoken[-1:] or [p for p in task.get("predictions") or [] if isinstance(p, dict)][:1]
        if not chosen:
            return None
        result = chosen[0].get("result")
        return [region for region in result if isinstance(region, dict)] if isinstance(result, list) else []

    def _region(self, region: Mapping[str, Any], where: str) -> Iterator[Named]:
        kind, value = str(region.get("type")), region.get("value")
        if not isinstance(value, dict):
            return
        if kind in ("rectanglelabels", "rectangle"):
            box = _box(region, value)
            if value.get("rotation"):
                self.odd.note("turned box, taken as the upright box around it", where)
        elif kind in SHAPES:
            self.odd.note(SHAPES[kind], where)
            box = _around(value.get("points"))
        elif kind in NO_SHAPE:
            self.odd.note(f"{kind}, which is no box, skipped", where)
            yield NO_BOX
            return
        else:
            return
        names = value.get(kind) if isinstance(value.get(kind), list) else [""]
        for name in names or [""]:
            yield Named(category=str(name), box_xyxy=box, parts=True, score=_score(region.get("score")))


def _choices(region: Mapping[str, Any]) -> list[str]:
    value = region.get("value")
    choices = value.get("choices") if isinstance(value, dict) and region.get("type") == "choices" else None
    return [str(choice) for choice in choices] if isinstance(choices, list) else []


def _score(value: object) -> float:
    number = float(value) if isinstance(value, int | float) and abs(value) < 2 else 1.0
    return min(1.0, max(0.0, number)) if math.isfinite(number) else 1.0


def _box(region: Mapping[str, Any], value: dict[str, Any]) -> tuple[float, float, float, float]:
    """Return the box in parts of the image; a turned one needs the image's size to stay in shape."""
    try:
        size = (int(region.get("original_width") or 100), int(region.get("original_height") or 100))
        box = corners(value, size)
    except (OverflowError, TypeError, ValueError):
        box = None
    if box is None or size[0] <= 0 or size[1] <= 0:
        return NO_BOX.box_xyxy
    return box[0] / size[0], box[1] / size[1], box[2] / size[0], box[3] / size[1]


def _around(points: Any) -> tuple[float, float, float, float]:
    try:
        xs, ys = zip(*((float(x) / 100, float(y) / 100) for x, y in points), strict=True)
    except (OverflowError, TypeError, ValueError):
        return NO_BOX.box_xyxy
    return min(xs), min(ys), max(xs), max(ys)


def _image(data: Mapping[str, Any]) -> str:
    """Return the path that a task's address stands for; empty when it has none.

    >>> _image({"image": "/data/local-files/?d=images/a%20b.png"}), _image({"image": "https://host/x/a.png?size=1"})
    ('images/a b.png', 'a.png')
    >>> _image({"photo": "/data/upload/3/0a1b2c3d-a.png"})
    'a.png'
    """
    texts = [data[IMAGE]] if IMAGE in data else list(data.values())
    address = next((t for t in texts if isinstance(t, str) and (IMAGE in data or _is_image(t))), "")
    try:
        parts = urlsplit(address)
        if parts.path.endswith("/data/local-files/") and (named := parse_qs(parts.query).get("d")):
            return named[0]
    except ValueError:
        return ""
    if "/data/upload/" in parts.path:
        return unquote(parts.path).rpartition("/")[2][UPLOAD_PREFIX:]
    # an image of the web has been fetched under its own name, if it is here at all
    return unquote(parts.path).rpartition("/")[2] if len(parts.scheme) > 1 else unquote(address)


def _is_image(text: str) -> bool:
    return text.partition("?")[0].lower().endswith(SUFFIXES) or SERVED in text


class LabelStudioWriter:
    """Writes `tasks.json` and `label_config.xml`, with the images in `images/`.

    The server shows the images when its `LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT` is the folder.
    """

    def __init__(self, folder: Path, categories: tuple[str, ...]) -> None:
        self.folder = folder
        (folder / INTERFACE).write_text(
            make_interface([(name, "") for name in categories], categories), encoding="utf-8"
        )
        self._stream = (folder / FILE).open("w", encoding="utf-8")
        self._tasks = 0

    def add(self, entry: Entry) -> None:
        """Write an image and its task."""
        file = write_image(self.folder, entry)
        place = file if entry.data is None else f"images/{file}"
        width, height = entry.size_wh
        data = {
            IMAGE: SERVED + quote(place),
            "sample": entry.id,
            "width": width,
            "height": height,
            "state": entry.state,
            "license": entry.licence,
        }
        result = [
            make_region(entry.id, number, entry.size_wh, label.category, label.box_xyxy, label.score)
            for number, label in enumerate(entry.labels)
        ]
        task: dict[str, Any] = {"data": data}
        if entry.state == State.CONFIRMED_EMPTY:
            choice = {"id": "empty", "type": "choices", "from_name": WHOLE, "to_name": IMAGE}
            task["annotations"] = [{"result": [choice | {"value": {"choices": [EMPTY]}}]}]
        elif entry.state == State.AUTO and result:
            score = min(label.score for label in entry.labels)
            task["predictions"] = [{"model_version": entry.labels[0].source, "score": score, "result": result}]
        elif result:
            task["annotations"] = [{"result": result}]
        self._stream.write(("[\n" if not self._tasks else ",\n") + json.dumps(task))
        self._tasks += 1

    def close(self) -> None:
        """Write the end."""
        self._stream.write("\n]\n" if self._tasks else "[]\n")
        self._stream.close()
