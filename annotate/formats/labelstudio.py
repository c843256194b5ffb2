"""Label Studio: a JSON list of tasks; what a person drew are annotations, what a model says are predictions."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tilth.annotate.formats.parts.files import scratch, write_image
from tilth.annotate.formats.parts.listing import Listed
from tilth.annotate.formats.parts.records import Boxed, Entry, Found, Labels, LeftOut, Oddities, Shown, nobody
from tilth.annotate.formats.parts.texts import ends, json_lists
from tilth.annotate.labelstudio.regions import Reading, minimal, read_result
from tilth.annotate.labelstudio.tasks import EMPTY, ESCALATE, IMAGE, SHOWS, UNUSABLE, WHOLE, make_interface, make_region
from tilth.claims import State
from tilth.errors import InputError
from tilth.images import SUFFIXES

FILE, INTERFACE = "tasks.json", "label_config.xml"
SERVED = "/data/local-files/?d="
PREFIX = re.compile(r"^[0-9a-f]{8}-(?=.)")  # what the server puts before the name of an uploaded file


def looks_like_tasks(path: Path) -> bool:
    """Tell whether a JSON file begins as a list of tasks does, or as JSON_MIN, the smaller export."""
    head, _ = ends(path)
    return head.startswith("[") and any(word in head for word in ('"data"', '"annotation_id"', '"annotator"'))


class LabelStudio(Listed):
    """Reads every `.json` of tasks under a folder, or one; of several annotations the newest that was not skipped counts.

    Args:
        path: As of every list.
        images: As of every list.
        odd: As of every list.
        knows: Tells whether a word is a label of ours.
    """

    def __init__(self, path: Path, images: Path | None, odd: Oddities, knows: Callable[[str], bool] = nobody) -> None:
        super().__init__(path, images, odd)
        self.knows = knows
        self._uploads: Uploads | None = None

    suffixes = (".json",)

    def in_file(self, file: str, place: Path) -> Iterator[Found]:
        """Yield the images in the order of the tasks."""
        for number, (_, task) in enumerate(json_lists(place, ("",))):
            yield self._task(file, number, task)

    def _task(self, file: str, number: int, task: object) -> Found:
        where = f"{file}[{number}]"
        if isinstance(task, dict) and "data" not in task:  # JSON_MIN
            task = {"data": task, "annotations": [{"result": minimal(task, self.knows)}]}
        data = task.get("data") if isinstance(task, dict) else None
        if not isinstance(task, dict) or not isinstance(data, dict):
            return Found(name=where, label_file=file, error="a task is an object with data")
        address, state = _address(data), str(data.get("state") or "")
        where = address or where
        unasked = data.get("unasked")
        more: dict[str, Any] = {"unasked": tuple(map(str, unasked))} if isinstance(unasked, list) else {}
        result = self._result(task, where)
        if result is None:  # nobody has looked, neither person nor model
            return self.found(address, file, state=state or State.UNLABELLED, **more)
        reading = read_result(result)
        reading.left_out += self._others(task)
        for note in reading.notes:
            self.odd.note(note, where)
        labels = Labels(tuple(region.label for region in reading.regions), tuple(reading.left_out))
        if _of_unknown_image(data, result):
            kind = "of one of several images of a task"
            unplaced = [LeftOut(kind=kind, category=each.category) for each in labels.taken]
            labels, reading.said = Labels((), (*unplaced, *labels.left_out)), set()
        if UNUSABLE in reading.said:
            return self.found(address, file, labels=labels, error="a person called the image unusable")
        if ESCALATE in reading.said:  # the next who looks decides; what is drawn may be half of it
            passed = [
                LeftOut(kind="of an image that a person passed on", category=each.category) for each in labels.taken
            ]
            self.odd.note("image that a person passed on", where)
            return self.found(address, file, labels=Labels((), (*passed, *labels.left_out)), state=State.UNLABELLED)
        more["one_of"] = _one_of(reading, result)
        if EMPTY in reading.said:
            if labels != Labels():
                self.odd.note("called empty beside labels; the labels stand", where)
            state = State.CONFIRMED_EMPTY
        return self.found(address, file, labels=labels, state=state, **more)

    def find(self, name: str, places: tuple[str, ...]) -> str:
        """Return the image file of an address.

        An uploaded file has letters of the server's before its name, where it lies there or in the address or in both.
        """
        names, problem = _names(name), InputError("")
        for each in names:
            try:
                return self._images.find(each, places, self.odd)
            except InputError as error:
                problem = error
                if not str(error).startswith("missing image"):
                    raise
        if self._uploads is None:
            self._uploads = Uploads(self._images)
        path = self._uploads.find(names[-1].rpartition("/")[2])
        if not path:
            raise problem
        self.odd.note("image found by its name without the letters that an upload puts before it", name)
        return path

    def _others(self, task: Mapping[str, Any]) -> list[LeftOut]:
        """Return the labels of people whose annotation is not the newest; a person's own newest takes the place of earlier ones."""
        spoken = _spoken(task)
        newest = spoken[-1].get("completed_by") if spoken else None
        others = [a for a in spoken[:-1] if newest is None or a.get("completed_by") != newest]
        readings = [read_result(_list(annotation.get("result"))) for annotation in others]
        kind = "of an annotation by another than who made the newest"
        found = [region.label.category for reading in readings for region in reading.regions]
        found += [label.category for reading in readings for label in reading.left_out]
        return [LeftOut(kind=kind, category=category) for category in found]

    def _result(self, task: Mapping[str, Any], where: str) -> list[object] | None:
        spoken = _spoken(task)
        if len(spoken) > 1:
            self.odd.note("several annotations of an image, the newest taken", where)
        chosen = spoken[-1:] or [p for p in _list(task.get("predictions")) if isinstance(p, dict)][:1]
        if not chosen:
            return None
        return _list(chosen[0].get("result"))


def _one_of(reading: Reading, result: list[Any]) -> bool:
    """Tell whether an annotation is one choice of an interface that is not ours, which may have allowed no other beside it."""
    ours = any(isinstance(region, dict) and region.get("from_name") == SHOWS for region in result)
    return not ours and len(reading.regions) == 1 and reading.regions[0].label.box_xyxy is None


def _of_unknown_image(data: Mapping[str, Any], result: list[Any]) -> bool:
    """Tell whether a task has several images and its regions do not say of which they are.

    The interface, which is not in the file, says which image a name is; only where a name is also the image's own is that plain.
    """
    pictures = {key for key, value in data.items() if isinstance(value, str) and _is_image(value)}
    names = {str(region.get("to_name")) for region in result if isinstance(region, dict)}
    return len(pictures) > 1 and not (IMAGE in pictures and names <= {IMAGE})


def _spoken(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the annotations that were not skipped, oldest first."""
    spoken = [a for a in _list(task.get("annotations")) if isinstance(a, dict) and not a.get("was_cancelled")]
    return sorted(spoken, key=lambda a: str(a.get("updated_at") or ""))


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


class Uploads:
    """Image files by the names that they had before they were uploaded, on disk."""

    def __init__(self, files: Iterable[str]) -> None:
        self._rows = scratch()
        self._rows.execute("CREATE TABLE uploads (name TEXT, path TEXT)")
        self._rows.execute("BEGIN")
        for path in files:
            last = path.rpartition("/")[2]
            for name in {_tidy(last), _tidy(PREFIX.sub("", last))}:
                self._rows.execute("INSERT INTO uploads VALUES (?, ?)", (name, path))
        self._rows.execute("COMMIT")
        self._rows.execute("CREATE INDEX by_name ON uploads(name)")

    def find(self, name: str) -> str:
        """Return the only file that had this name; empty when there is none, or more than one."""
        found = self._rows.execute("SELECT DISTINCT path FROM uploads WHERE name=? LIMIT 2", (_tidy(name),)).fetchall()
        return str(found[0][0]) if len(found) == 1 else ""


def _tidy(name: str) -> str:
    """Return a file's name as the server writes it: without spaces and signs.

    >>> _tidy("My photo (1).PNG")
    'my_photo_1.png'
    """
    return re.sub(r"[^-\w.]", "", name.strip().replace(" ", "_")).lower()


def _names(address: str) -> list[str]:
    """Return the names that a file may have by its address: that which it has, and that without what an upload puts before it.

    >>> _names("upload/3/0a1b2c3d-a.png"), _names("b/a.png")
    (['0a1b2c3d-a.png', 'a.png'], ['b/a.png'])
    """
    last = address.rpartition("/")[2]
    if not PREFIX.match(last):
        return [address]
    return [*([] if address.startswith("upload/") else [address]), last, PREFIX.sub("", last)]


def _address(data: Mapping[str, Any]) -> str:
    """Return the path that a task's address stands for; empty when it has none.

    >>> _address({"image": "/data/local-files/?d=images/a%20b.png"}), _address({"image": "https://host/x/a.png?size=1"})
    ('images/a b.png', 'a.png')
    >>> _address({"photo": "/data/upload/3/0a1b2c3d-a.png"})
    'upload/3/0a1b2c3d-a.png'
    """
    texts = [data[IMAGE]] if IMAGE in data else list(data.values())
    address = next((t for t in texts if isinstance(t, str) and (IMAGE in data or _is_image(t))), "")
    try:
        parts = urlsplit(address)
        if parts.path.endswith("/data/local-files/") and (named := parse_qs(parts.query).get("d")):
            return named[0]
    except ValueError:
        return ""
    _, uploaded, name = unquote(parts.path).rpartition("/data/upload/")
    if uploaded:
        return f"upload/{name}"
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
            **({"unasked": list(entry.unasked)} if entry.unasked else {}),
        }
        result = [
            make_region(entry.id, number, entry.size_wh, label.category, label.box_xyxy, label.score)
            for number, label in enumerate(entry.labels)
        ]
        for number, shown in enumerate(entry.shown):
            choice = {"id": f"shown{number}", "type": "choices", "from_name": SHOWS, "to_name": IMAGE}
            result.append(choice | {"value": {"choices": [shown.category]}, "score": shown.score})
        task: dict[str, Any] = {"data": data}
        if entry.state == State.CONFIRMED_EMPTY:
            choice = {"id": "empty", "type": "choices", "from_name": WHOLE, "to_name": IMAGE}
            task["annotations"] = [{"result": [choice | {"value": {"choices": [EMPTY]}}]}]
        elif entry.state == State.AUTO and result:
            said: list[Boxed | Shown] = [*entry.labels, *entry.shown]
            score = min(label.score for label in said)
            task["predictions"] = [{"model_version": said[0].source, "score": score, "result": result}]
        elif result:
            task["annotations"] = [{"result": result}]
        self._stream.write(("[\n" if not self._tasks else ",\n") + json.dumps(task))
        self._tasks += 1

    def close(self) -> None:
        """Write the end."""
        self._stream.write("\n]\n" if self._tasks else "[]\n")
        self._stream.close()
