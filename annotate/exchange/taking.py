"""What a label file says of an image as claims; each label is taken, ignored as the recipe says, or left out by name."""

import json
import math
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np

from tilth.annotate.formats.parts.orientation import read_header, saw_stored, shown_size, turn
from tilth.annotate.formats.parts.records import EXAMPLES, Found, Named, Oddities, Served, Tally, writable
from tilth.annotate.review.queue import SERVED
from tilth.claims import Claim, Json
from tilth.data.files import write_beside
from tilth.data.where import LEFT_OUT
from tilth.engine.intake import Failed
from tilth.errors import InputError
from tilth.geometry import Box
from tilth.origins.said import origin_in
from tilth.policy import Policy
from tilth.samples import NewSample

UNKNOWN = "category that the policy does not have"
ROUNDING = 0.01  # pixels over the edge that are rounding of the file
NAMELESS = "label without a name"
LOST = "of an image that could not be taken"
FRACTIONS = "box within the first pixel, as of a file that gives parts of the image where pixels belong"
TINY = 8  # pixels; of a smaller image, a box of one pixel may be meant so


def called_apart(dataset: Path, root: Path) -> str:
    """Return what a set is called in a dataset: its folder's name, and a number behind that of the second folder of one name.

    Many sets have a folder `train` with a file of one name in it; were both called alike, one would replace the labels of the other.
    """
    path = dataset / "imports.json"
    known: list[str] = json.loads(path.read_text()) if path.exists() else []
    if str(root) not in known:
        known.append(str(root))
        write_beside(path, json.dumps(known, indent=1))
    number = [each for each in known if Path(each).name == root.name].index(str(root)) + 1
    return root.name if number == 1 else f"{root.name}~{number}"


@dataclass
class Labels:
    """Counts the labels of a set: each that was read is taken, ignored or left out."""

    read: int = 0
    taken: int = 0
    ignored: int = 0
    left_out: Tally = field(default_factory=Tally)


@dataclass
class Taker:
    """Turns what a reader found into samples, and keeps count.

    Args:
        policy: Whose categories count.
        root: Of the set.
        called: What the set is called in this dataset, by which its claims are known.
        categories: The set's names to the policy's; "" ignores a name.
        empty_means: What an image without labels is.
        key: Of this import; a second import of the same files replaces the first by it.
        origin: Of the images.
        columns: Of the images.
        odd: Takes notes.
        covers: The categories that the set looked for.
        listed: The set's own list of names; one on it that we do not know is none of those that we do.
        apart: Whether the recipe says what the set covers, and so that a class stands apart from the others.
        by: Who says it, `model:<name>`; the set itself when empty.
    """

    policy: Policy
    root: Path
    called: str
    categories: Mapping[str | int, str] | Literal["as_is"]
    empty_means: str
    key: str
    origin: Mapping[str, str]
    columns: Mapping[str, str]
    odd: Oddities
    covers: tuple[str, ...]
    listed: frozenset[str] = frozenset()
    apart: bool = False
    by: str = ""
    unknown: Counter[str] = field(default_factory=Counter)
    renamed: dict[str, str] = field(default_factory=dict)  # names of the set that the policy has in other letters
    labels: Labels = field(default_factory=Labels)
    served: int = 0  # images that a served model was unsure about
    files: list[str] = field(default_factory=list)  # the first that labels were read from

    def __post_init__(self) -> None:
        """Look up once what is asked for with each label."""
        self._tag = self.policy.tag
        self._drawn = {category.name for category in self.policy.pictured if not category.is_signpost}
        self.name = lru_cache(maxsize=4096)(self._name)

    def take(self, found: Found) -> NewSample | Failed:
        """Read one image and say what is claimed about it."""
        self.labels.read += len(found.labels) + len(found.left_out)
        if found.label_file and len(self.files) < EXAMPLES and found.label_file not in self.files:
            self.files.append(found.label_file)
        try:
            if found.read is None:
                raise InputError(found.error)
            data = found.read()
            stored_wh, orientation, stored = self._seen(found, data) if found.labels else ((0, 0), 1, False)
        except (InputError, OSError) as error:
            self.odd.note("image that could not be taken", f"{found.name}: {error}")
            for name in [label.category for label in found.labels] + [label.category for label in found.left_out]:
                self.labels.left_out.note(LOST, f"{found.name}: {name}")
            return Failed(name=found.name, error=found.error or str(error))
        doubts = {doubt for name in found.unsure if (doubt := self._doubt(name)) is not None}
        taken = [*self._taken(found, stored_wh, orientation, stored, doubts)]
        for label in found.left_out:
            self._leave(label.kind, label.category, label.where or found.name, doubts)
        return self._sample(found, data, taken, doubts)

    def _sample(self, found: Found, data: bytes, taken: list[Named], doubts: set[str]) -> NewSample:
        unasked = {name for each in found.unasked if (name := self.name(each))}
        asked = self._asked(found, {str(self.name(label.category)) for label in taken}, doubts | unasked)
        # the round makes a second import of the same file replace the first
        round_: dict[str, Json] = {"round": self.key}
        say = partial(Claim, source=self._source(found), asked=asked, policy=self._tag, evidence=round_)
        claims = []
        for label in taken:
            ours = self.name(label.category)
            evidence = round_ if ours == label.category else {**round_, "was": label.category}
            claims.append(say(category=ours, box_xyxy=label.box_xyxy, score=label.score, evidence=evidence))
        if not claims and found.label_file and self._is_empty(found, doubts, unasked):
            claims.append(say(says="empty"))
        columns: dict[str, Json] = {**self.columns, **({LEFT_OUT: sorted(doubts)} if doubts else {})}
        if found.served is not None:
            columns |= self._served(found.served, found.name)
        origin = {**origin_in(data, self.origin), "source": f"{self.root.name}/{found.name}"}
        return NewSample(data=data, origin=origin, claims=tuple(claims), columns=columns)

    def _served(self, told: Served, where: str) -> dict[str, Json]:
        """Return what a served model thought as columns; its scores of what people can be asked to draw."""
        self.served += 1
        scores: dict[str, Json] = {}
        for name, score in told.scores.items():
            if not (ours := self.name(name)):
                self.odd.note("score of a category that the policy does not have, left out", f"{where}: {name}")
            elif ours in self._drawn:
                scores[ours] = score
        return {"served.by": told.by, "served.time": told.time, "served.doubt": told.doubt, SERVED: scores}

    def _is_empty(self, found: Found, doubts: set[str], unasked: set[str]) -> bool:
        means = found.state if found.state in ("confirmed_empty", "unlabelled") else self.empty_means
        if means != "confirmed_empty":
            return False
        why = "the set covers nothing of the policy" if unasked >= set(self.covers) else ""
        # a label that was left out may have been one of the policy, so nobody has confirmed anything
        why = why or ("labels of it were left out" if doubts else "")
        if why:
            self.odd.note(f"not called empty, as {why}", found.name)
        return not why

    def _asked(self, found: Found, named: set[str], doubts: set[str]) -> tuple[str, ...]:
        """Return what the set looked for in an image: not what a label may have been that was left out."""
        if "" in doubts or (named and found.one_of and not self.apart):
            return tuple(sorted(named))
        return tuple(name for name in self.covers if name in named or name not in doubts)

    def _source(self, found: Found) -> str:
        return self.by or f"import:{self.called}/{found.label_file}"

    def _seen(self, found: Found, data: bytes) -> tuple[tuple[int, int], int, bool]:
        """Return the image's size as stored, its orientation, and whether its boxes are of the stored image."""
        stored_wh, orientation = read_header(data)
        boxes = [label.box_xyxy for label in found.labels if label.box_xyxy is not None and not label.parts]
        stored, note = saw_stored(found.size_wh, boxes, stored_wh, orientation, upright=found.upright)
        if note:
            self.odd.note(note, found.name)
        return stored_wh, orientation, stored

    def _taken(
        self, found: Found, stored_wh: tuple[int, int], orientation: int, stored: bool, doubts: set[str]
    ) -> Iterator[Named]:
        """Yield the labels that are taken, each with its box in pixels of the image as it is shown."""
        for label in found.labels:
            if not label.category or not self.name(label.category):
                self._leave(UNKNOWN if label.category else NAMELESS, label.category, found.name, doubts)
                continue
            box, why = None, ""
            if label.box_xyxy is not None:
                box, why = self._box(label, label.box_xyxy, found.name, stored_wh, orientation, stored)
                # what has a state was written by us, in pixels
                if not found.state and not label.parts and _fractions(label.box_xyxy, stored_wh):
                    why = FRACTIONS
            if why:
                self._leave(why, label.category, found.name, doubts)
                continue
            self.labels.taken += 1
            yield Named(category=label.category, box_xyxy=box, score=label.score)

    def _leave(self, kind: str, category: str, where: str, doubts: set[str]) -> None:
        """Count a label that is not taken: it is ignored as the recipe says, or left out and leaves its image in doubt."""
        doubt = self._doubt(category)
        if doubt is None:
            self.labels.ignored += 1
            return
        self.labels.left_out.note(kind, f"{where}: {category}" if category else where)
        doubts.add(doubt)
        if category and self.name(category) is None:
            self.unknown[writable(category)] += 1

    def _doubt(self, category: str) -> str | None:
        """Return what a label that is not taken may be of: empty for anything; None when it is to be ignored."""
        known = self.name(category) if category else None
        if known is None:
            return category if category in self.listed else ""
        return known or None

    def _name(self, name: str) -> str | None:
        """Return the policy's name for one of the set, empty when it is to be ignored, None when nobody knows it."""
        if writable(name) != name:
            return None
        if self.categories != "as_is" and name in self.categories:
            return self.categories[name]
        known = self.policy.find(name)
        if known is not None and known != name:
            self.renamed[name] = known
        return name if known is None and self.categories == "as_is" else known

    def _box(
        self, label: Named, box: Box, where: str, stored_wh: tuple[int, int], orientation: int, stored: bool
    ) -> tuple[Box | None, str]:
        """Return the box in pixels of the image as it is shown, or why it is none."""
        width, height = shown_size(stored_wh, orientation)
        if label.parts:
            box = box[0] * width, box[1] * height, box[2] * width, box[3] * height
        if not all(map(math.isfinite, box)):
            return None, "box that is no box"
        if stored and not label.parts:
            left, top, right, bottom = turn(np.array([box], np.float64), stored_wh, orientation)[0].tolist()
            box = left, top, right, bottom
        if box[0] >= box[2] or box[1] >= box[3]:
            return None, "inverted or empty box"
        if box[2] <= 0 or box[3] <= 0 or box[0] >= width or box[1] >= height:
            return None, "box outside the image"
        over = max(-box[0], -box[1], box[2] - width, box[3] - height)
        if over > ROUNDING:
            self.odd.note("box over the edge, clipped", f"{where}: {label.category} {label.box_xyxy}")
        cut = max(box[0], 0.0), max(box[1], 0.0), min(box[2], width), min(box[3], height)
        x0, y0, x1, y1 = array("f", cut)  # the store's precision
        return ((x0, y0, x1, y1), "") if x0 < x1 and y0 < y1 else (None, "inverted or empty box")


def _fractions(box: Box, size_wh: tuple[int, int]) -> bool:
    """Tell whether a box in pixels looks like one in parts of the image: it is within the first pixel, and no whole one."""
    return max(box) <= 1 and min(size_wh) > TINY and any(side % 1 for side in box)
