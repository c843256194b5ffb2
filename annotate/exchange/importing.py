"""The step `import`: images and labels of other tools become samples with claims; what is odd is counted, not guessed."""

import difflib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from tilth.annotate.formats.coco import Coco
from tilth.annotate.formats.parts.leftover import left_alone
from tilth.annotate.formats.parts.orientation import read_header, saw_stored, shown_size, turn
from tilth.annotate.formats.parts.records import Found, Named, Oddities
from tilth.annotate.formats.reading import Format, listed_names, open_reader
from tilth.claims import Claim, Json
from tilth.engine.intake import Failed
from tilth.engine.steps import Facts, fingerprint, inputs_digest, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.geometry import Box, Boxes
from tilth.images import reads_heic
from tilth.policy import Policy
from tilth.samples import NewSample


@dataclass
class _Taker:
    """Turns what a reader found into samples, and keeps count."""

    policy: Policy
    root: Path
    categories: Mapping[str, str] | Literal["as_is"]
    empty_means: str
    key: str
    origin: Mapping[str, str]
    columns: Mapping[str, str]
    odd: Oddities
    covers: tuple[str, ...]
    listed: bool  # the set has a list of its names, so one that we do not know is none of those that we do
    boxes: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    images: Counter[str] = field(default_factory=Counter)

    def take(self, found: Found) -> NewSample | Failed:
        """Read one image and say what is claimed about it."""
        try:
            return self._sample(found)
        except (InputError, OSError) as error:
            self.odd.note("image that could not be taken", f"{found.name}: {error}")
            return Failed(name=found.name, error=found.error or str(error))

    def _sample(self, found: Found) -> NewSample:
        if found.read is None:
            raise InputError(found.error)
        data = found.read()
        claims, skipped = self._claims(found, data)
        if not claims and found.label_file:
            claims = self._empty(found, bool(skipped), {self._name(name) for name in found.unasked})
        skipped |= {self._name(name) for name in found.unasked} - {None, ""}
        claims = [replace(claim, asked=self._asked(claims, skipped), policy=self.policy.tag) for claim in claims]
        state = "labelled" if any(c.says == "label" for c in claims) else "confirmed_empty" if claims else "unlabelled"
        self.images[state] += 1
        source = f"{self.root.name}/{found.name}"
        origin = {**self.origin, "source": source}
        return NewSample(data=data, origin=origin, claims=tuple(claims), columns=self.columns)

    def _empty(self, found: Found, unsure: bool, unasked: set[str | None]) -> list[Claim]:
        means = found.state if found.state in ("confirmed_empty", "unlabelled") else self.empty_means
        if means != "confirmed_empty":
            return []
        if unasked >= set(self.covers):
            self.odd.note("not called empty, as the set covers nothing of the policy", found.name)
            return []
        if unsure:
            # a label that was skipped may have been one of the policy, so nobody has confirmed anything
            self.odd.note("not called empty, as labels of it were skipped", found.name)
            return []
        return [Claim(says="empty", source=self._source(found), evidence={"round": self.key})]

    def _asked(self, claims: list[Claim], skipped: set[str | None]) -> tuple[str, ...]:
        """Return what the set looked for in an image: not what a label may have been that was skipped."""
        named = {str(claim.category) for claim in claims if claim.category}
        if None in skipped and not self.listed:
            return tuple(sorted(named))
        return tuple(name for name in self.covers if name in named or name not in skipped)

    def _source(self, found: Found) -> str:
        return f"import:{self.root.name}/{found.label_file}"

    def _claims(self, found: Found, data: bytes) -> tuple[list[Claim], set[str | None]]:
        """Return the claims, and the categories of labels that were skipped, among them None for names that nobody knows."""
        if not found.labels:
            return [], set()
        stored_wh, orientation = read_header(data)
        boxes = [label.box_xyxy for label in found.labels if not label.parts]
        stored, note = saw_stored(found.size_wh, boxes, stored_wh, orientation, upright=found.upright)
        if note:
            self.odd.note(note, found.name)
        claims: list[Claim] = []
        skipped: set[str | None] = set()
        for label in found.labels:
            category = self._category(label.category) if label.category else None
            if category == "":
                continue
            box = self._box(label, found.name, stored_wh, orientation, stored and not label.parts)
            if category is None or box is None:
                skipped.add(category)
                continue
            self.boxes[category] += 1
            # the round makes a second import of the same file replace the first
            evidence = {"round": self.key} | ({"was": label.category} if label.category != category else {})
            claims.append(
                Claim(category=category, box_xyxy=box, score=label.score, source=self._source(found), evidence=evidence)
            )
        return claims, skipped

    def _category(self, name: str) -> str | None:
        """Return the policy's name, empty when the name is to be ignored, None when nobody knows it, which is counted."""
        known = self._name(name)
        self.unknown.update([name] if known is None else [])
        return known

    def _name(self, name: str) -> str | None:
        if self.categories == "as_is" or (name in self.policy.names and name not in self.categories):
            return name
        return self.categories.get(name)

    def _box(self, label: Named, where: str, stored_wh: tuple[int, int], orientation: int, stored: bool) -> Box | None:
        width, height = shown_size(stored_wh, orientation)
        box: Boxes = np.array([label.box_xyxy], np.float64)
        if label.parts:
            with np.errstate(over="ignore"):  # it is no number then, and said to be none
                box = box * [width, height, width, height]
        if not np.isfinite(box).all():
            self.odd.note("box that is no box, skipped", f"{where}: {label.category}")
            return None
        if stored:
            box = turn(box, stored_wh, orientation)
        if box[0, 0] >= box[0, 2] or box[0, 1] >= box[0, 3]:
            self.odd.note("inverted or empty box, skipped", f"{where}: {label.category} {label.box_xyxy}")
            return None
        cut = np.clip(box, 0, [width, height, width, height])
        if cut[0, 0] >= cut[0, 2] or cut[0, 1] >= cut[0, 3]:
            self.odd.note("box outside the image, skipped", f"{where}: {label.category} {label.box_xyxy}")
            return None
        if np.abs(cut - box).max() > 0.01:  # less is rounding of the file
            self.odd.note("box over the edge, clipped", f"{where}: {label.category} {label.box_xyxy}")
        x0, y0, x1, y1 = (float(v) for v in cut[0].astype(np.float32))  # the store's precision
        if x0 >= x1 or y0 >= y1:
            self.odd.note("inverted or empty box, skipped", f"{where}: {label.category} {label.box_xyxy}")
            return None
        return x0, y0, x1, y1


@step
class Import:
    """Take in images, with the labels that a set of another tool has for them.

    Args:
        path: A folder, or a label file: a COCO or Label Studio `.json`, a YOLO `data.yaml`, a CVAT `.xml`, a `.tar`, …
        format: Of the set; `auto` looks.
        images: Folder that the labels' image names count from, when the images lie apart from the labels.
        split: Put the images into this split; a set that tells splits apart gives only this one.
        empty_means: What an image without boxes is when a label file speaks of it: not looked at, or looked at and empty.
        licence: Of the images, kept with each.
        categories: The set's names to the policy's; "" ignores a name. Policy names need no entry; other names are
            listed and skipped, unless this is `as_is`.
        covers: The policy's categories that whoever labelled the set looked for. By default those that the set's own list names,
            as of COCO and YOLO; where a set has no list, all of the policy. An image without a label of one of these shows none;
            of other categories it says nothing.
    """

    path: Path
    format: Format = "auto"
    images: Path | None = None
    split: Literal["", "train", "val", "test"] = ""
    empty_means: Literal["unlabelled", "confirmed_empty"] = "unlabelled"
    licence: str = ""
    categories: dict[str, str] | Literal["as_is"] = field(default_factory=dict)
    covers: tuple[str, ...] = ()

    def inputs(self) -> tuple[Path, ...]:
        """The set's folder; a label file stands for the images beside it."""
        return tuple(p.expanduser() for p in (self.path, self.images) if p)

    def run(self, work: Work) -> Facts:
        """Read everything once.

        Raises:
            InputError: The path is absent, not of the format, or `categories` names what the policy does not have.
        """
        wanted = set() if self.categories == "as_is" else set(self.categories.values()) - {""}
        if wrong := sorted(wanted - set(work.policy.names)):
            known = ", ".join(work.policy.names)
            raise InputError(f"categories: the policy has no {', '.join(map(repr, wrong))}; it has {known}")
        if self.categories != "as_is" and (wrong := sorted(set(self.covers) - set(work.policy.names))):
            raise InputError(f"covers: the policy has no {', '.join(wrong)}; it has {', '.join(work.policy.names)}")
        odd = Oddities()
        path = self.path.expanduser().resolve()
        images = self.images.expanduser().resolve() if self.images else None
        format_, reader = open_reader(path, self.format, self.split, images, odd)
        # what the policy does not know is skipped, so a policy that knows more has the labels read again
        known_names = () if format_ == "folder" or self.categories == "as_is" else sorted(work.policy.names)
        listed = listed_names(reader)
        # what failed for want of a reader is read again once there is one
        known_formats = ("HEIC",) if reads_heic() else ()
        key = fingerprint(self, inputs_digest(self.inputs()), *known_names, *known_formats)
        taker = _Taker(
            policy=work.policy,
            root=reader.root,
            categories=self.categories,
            empty_means=self.empty_means,
            key=key,
            origin={"licence": self.licence, "step": work.name},
            columns={"split": self.split} if self.split else {},
            odd=odd,
            covers=self._covers(listed, work.policy),
            listed=bool(listed),
        )
        counts = work.add(key, map(taker.take, reader), total=reader.count())
        left = left_alone(path, images, format_, reader.file.name if isinstance(reader, Coco) else "").facts()
        if not counts:
            raise InputError(f"{self.path}: no images in it that the format {format_!r} takes{_named(left)}")
        return {
            "format": format_,
            "images": counts.get("ok", 0),
            "copies": counts.get("dropped", 0),
            **({"quarantined": counts["quarantined"]} if "quarantined" in counts else {}),
            "failed": counts.get("failed", 0),
            "left_alone": left,
            **_facts(taker, work.policy),
        }

    def _covers(self, listed: tuple[str, ...], policy: Policy) -> tuple[str, ...]:
        """Return what the set looked for, in the order of the policy."""
        if self.covers or not listed:
            return self.covers or policy.names
        if self.categories == "as_is":
            return tuple(dict.fromkeys(listed))
        ours = {self.categories.get(name, name) for name in listed}
        return tuple(name for name in policy.names if name in ours)


def _named(left: Mapping[str, Json]) -> str:
    """Say in a line what was left alone."""
    told = (f"{kind}: {about['files']}, such as {about['example']}" for kind, about in left.items())  # type: ignore[call-overload,index]
    return "; left alone: " + "; ".join(told) if left else ""


def _facts(taker: _Taker, policy: Policy) -> dict[str, Json]:
    near = {name: difflib.get_close_matches(name.lower(), policy.names, n=1) for name in taker.unknown}
    return {
        "by_state": dict(taker.images),
        "covers": list(taker.covers),
        "not_covered": [name for name in policy.names if name not in taker.covers],
        "boxes": sum(taker.boxes.values()),
        "boxes_by_category": dict(taker.boxes),
        "unknown_categories": {
            name: {"boxes": count, "did_you_mean": "".join(near[name])}
            for name, count in taker.unknown.most_common(100)
        },
        "odd": dict(taker.odd.counts),
        "odd_examples": taker.odd.examples,
    }
