"""The step `import`: images and labels of other tools become samples with claims; what is odd is counted, not guessed."""

import difflib
import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import yaml

from tilth.annotate.exchange.modelled import of_known_images
from tilth.annotate.exchange.taking import LOST, Taker, called_apart
from tilth.annotate.formats.coco import Coco
from tilth.annotate.formats.parts.leftover import left_alone
from tilth.annotate.formats.parts.listing import Parts
from tilth.annotate.formats.parts.records import Oddities, Reader
from tilth.annotate.formats.reading import Format, listed_names, open_reader
from tilth.claims import Json, State
from tilth.engine.copies import Outcome, outcome
from tilth.engine.intake import Failed
from tilth.engine.steps import Facts, fingerprint, inputs_digest, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.images import reads_heic
from tilth.policy import Policy, fold
from tilth.samples import NewSample

NAMED = 20  # unknown categories that are said; the facts have more


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
        categories: The set's names to the policy's; "" ignores a name. Policy names need no entry; labels of other
            names are left out and named, unless this is `as_is`.
        covers: The policy's categories that whoever labelled the set looked for. By default those that the set's own list names,
            as of COCO, YOLO and folders of classes; where a set has no list, all of the policy. An image without a label of one of
            these shows none; of other categories it says nothing. Where one class was chosen for an image, it says nothing of the
            other classes unless this is given.
        by: `model:<name>` when a model gave the labels and no person did. They are then automatic ones with their scores, of images that
            are in the dataset already; the others are left out. An image of the file without boxes shows nothing that the model
            looked for. Read again under this name, they take the place of what it said before.
        optional: The path may be absent, or hold no image, as on a night on which nothing came; then nothing is taken in.
        each: The path holds folders that are sets of their own, as one a night; what was read once and has not changed is not read again.
    """

    path: Path
    format: Format = "auto"
    images: Path | None = None
    split: Literal["", "train", "val", "test"] = ""
    empty_means: Literal["unlabelled", "confirmed_empty"] = "unlabelled"
    licence: str = ""
    categories: Mapping[str | int, str] | Literal["as_is"] = field(default_factory=dict)
    covers: tuple[str, ...] = ()
    by: str = ""
    optional: bool = False
    each: bool = False

    def __post_init__(self) -> None:
        """Take class numbers as names, and check who speaks."""
        if self.by and not re.fullmatch(r"model:\S+", self.by):
            raise ValueError(f"by must be model:<name>, the model that gave the labels, got {self.by!r}")
        if self.categories != "as_is":
            object.__setattr__(self, "categories", {str(theirs): ours for theirs, ours in self.categories.items()})

    def inputs(self) -> tuple[Path, ...]:
        """The set's folder; a label file stands for the images beside it."""
        return tuple(
            p.expanduser() for p in (self.path, self.images) if p and (p.expanduser().exists() or not self.optional)
        )

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
        if self.optional and not _holds_files(self.path.expanduser()):
            return self._nothing(work)
        return self._each(work) if self.each else self._take(work)

    def _each(self, work: Work) -> Facts:
        """Read the folders that were not read before."""
        root, found = self.path.expanduser(), dict[str, Facts]()
        names = [name for c in work.policy.categories for name in (c.name, *c.also)]
        folders = sorted(path for path in root.iterdir() if path.is_dir() and _holds_files(path))
        if not folders:
            raise InputError(f"{self.path}: with `each` it must hold folders with images, and there is none")
        if beside := sum(path.is_file() for path in root.iterdir()):
            told = f"  {self.path}: {beside} files beside the folders are not read"
            work.events.emit("note", step=work.name, message=told)
        for folder in folders:
            one = replace(self, path=folder, each=False)
            key = fingerprint(one, inputs_digest(one.inputs()), *sorted(names))
            name = work.dataset.table(f"{work.name}-{key}").path.stem  # opened, as it is still of use
            if all(ref.name != name for ref in work.dataset.at.tables):
                found[folder.name] = one._take(work, key)
        if not found:
            return {**self._nothing(work), "read_before": len(folders)}
        counts = {
            name: sum(int(str(f.get(name, 0))) for f in found.values()) for name in ("images", "copies", "failed")
        }
        return {
            **counts,
            "read_before": len(folders) - len(found),
            "folders": {name: dict(f) for name, f in found.items()},
        }

    def _take(self, work: Work, key: str = "") -> Facts:
        """Read everything, into the table of this key if one is given."""
        odd = Oddities()
        path = self.path.expanduser().resolve()
        images = self.images.expanduser().resolve() if self.images else None
        knows = partial(self._knows, work.policy)
        format_, reader = open_reader(path, self.format, self.split, images, odd, knows)
        if self.by and format_ == "folder":
            raise InputError(
                f"{self.path}: by is of a model's labels, and these are images alone; give path its label file, and images this folder"
            )
        # what the policy does not know is left out, so a policy that knows more has the labels read again
        called = (name for c in work.policy.categories for name in (c.name, *c.also))
        known_names = () if format_ == "folder" or self.categories == "as_is" else sorted(called)
        listed = listed_names(reader)
        if not any(map(knows, listed)):
            self._refuse_strangers(
                open_reader(path, self.format, self.split, images, Oddities(), knows)[1], knows, work.policy
            )
        # what failed for want of a reader is read again once there is one
        known_formats = ("HEIC",) if reads_heic() else ()
        # a model's labels are asked for again when there are more images to which they may belong
        known_images = [str(work.dataset.count(dropped=True))] if self.by else []
        key = key or fingerprint(self, inputs_digest(self.inputs()), *known_names, *known_formats, *known_images)
        taker = Taker(
            called=called_apart(work.dataset.root, reader.root),
            policy=work.policy,
            root=reader.root,
            categories=self.categories,
            empty_means="confirmed_empty" if self.by else self.empty_means,
            key=key,
            origin={"licence": self.licence, "step": work.name},
            columns={"split": self.split} if self.split else {},
            odd=odd,
            covers=self._covers(listed, work.policy),
            listed=frozenset(listed),
            apart=bool(self.covers),
            by=self.by,
        )
        taken: Iterable[NewSample | Failed] = map(taker.take, reader)
        if self.by:
            taken = of_known_images(taken, work.dataset, taker)
        counts = work.add(key, taken, total=reader.count())
        left = left_alone(path, images, format_, *_label_files(reader)).facts()
        table = work.dataset.table(f"{work.name}-{key}")
        if not counts and self.optional:
            return self._nothing(work)
        if not counts:
            lost = "".join(f"; {kind}: {count}" for kind, count in (odd.counts if self.by else odd.lost.counts).items())
            raise InputError(f"{self.path}: no images in it that the format {format_!r} takes{lost}{_named(left)}")
        found = outcome(table)
        facts: dict[str, Json] = {
            "format": format_,
            "images": counts.get("ok", 0),
            "copies": counts.get("dropped", 0),
            **({"quarantined": counts["quarantined"]} if "quarantined" in counts else {}),
            "failed": counts.get("failed", 0),
            "failed_examples": [why for _, why in table.failures(NAMED)],
            "left_alone": left,
            **_facts(taker, found, work.policy),
            "conflicts": {"images": found.conflicts, "examples": _pictured(work, found.conflict_examples)},
        }
        for line in _plainly(facts):
            work.events.emit("note", step=work.name, message=line)
        return facts

    def shown(self, policy: Policy, most: int) -> dict[str, tuple[int, int]]:
        """Count of each category the images that the set says show it, of those that it says anything of it; no image is read.

        Args:
            policy: Whose categories count.
            most: Images after which that is known well enough.

        Raises:
            InputError: The set cannot be read.
        """
        path, images = (p.expanduser().resolve() if p else None for p in (self.path, self.images))
        knows = partial(self._knows, policy)
        reader = open_reader(path or self.path, self.format, self.split, images, Oddities(), knows)[1]
        covers = self._covers(listed_names(reader), policy)
        shown, looked = Counter[str](), Counter[str]()
        for found in islice(reader, most):
            names = {self._ours(label.category, policy) for label in found.labels} & set(policy.names)
            empty = (
                found.label_file and (found.state or self.empty_means) == State.CONFIRMED_EMPTY and not found.left_out
            )
            if names or empty:
                shown.update(names)
                looked.update(names if found.one_of and not self.covers else {*covers, *names})
        return {name: (shown[name], looked[name]) for name in policy.names if looked[name]}

    def _ours(self, name: str, policy: Policy) -> str:
        mapped = {} if self.categories == "as_is" else self.categories
        return mapped[name] if name in mapped else policy.find(name) or ""

    def _knows(self, policy: Policy, name: str) -> bool:
        return self.categories == "as_is" or name in self.categories or policy.find(name) is not None

    def _refuse_strangers(self, reader: Reader, knows: Callable[[str], bool], policy: Policy) -> None:
        """Read labels until one is known; when none is, nothing would come in but images, and nobody would notice.

        Raises:
            InputError: There are labels, and the policy knows none of their names.
        """
        met: Counter[str] = Counter()
        for found in reader:
            names = [label.category for label in found.labels] + [label.category for label in found.left_out]
            if any(map(knows, names)):
                return
            met.update(name for name in names if name)
        if met:
            counts = ", ".join(f"{name} ({count:,})" for name, count in met.most_common(NAMED))
            near = {
                name: difflib.get_close_matches(fold(name), policy.names, n=1) for name, _ in met.most_common(NAMED)
            }
            pasted = ", ".join(f"{_quoted(name)}: {_quoted(''.join(near[name]))}" for name in near)
            paste = shlex.quote(f"categories={{{pasted}}}")
            raise InputError(
                f"{self.path}: none of its {met.total():,} labels is of a category of the policy; they are {counts}. "
                f"Say which category each is, among {', '.join(policy.names)}; what has none is ignored: --set {paste}"
            )

    def _nothing(self, work: Work) -> Facts:
        work.events.emit("nothing_new", step=work.name, message=f"  {self.path}: nothing came")
        return {"images": 0, "nothing_came": str(self.path)}

    def _covers(self, listed: tuple[str, ...], policy: Policy) -> tuple[str, ...]:
        """Return what the set looked for, in the order of the policy."""
        if self.covers or not listed:
            return self.covers or policy.names
        if self.categories == "as_is":
            return tuple(dict.fromkeys(listed))
        ours = {self.categories.get(name, policy.find(name)) for name in listed}
        return tuple(name for name in policy.names if name in ours)


def _holds_files(path: Path) -> bool:
    return path.is_file() or any(item.is_file() for item in path.rglob("*"))


def _label_files(reader: Reader) -> tuple[str, ...]:
    """Return the names of the label files of a format whose suffix does not tell them."""
    if isinstance(reader, Parts):
        return reader.label_files
    return (reader.file.name,) if isinstance(reader, Coco) else ()


def _named(left: Mapping[str, Json]) -> str:
    """Say in a line what was left alone."""
    told = (f"{kind}: {about['files']}, such as {about['example']}" for kind, about in left.items())  # type: ignore[call-overload,index]
    return "; left alone: " + "; ".join(told) if left else ""


def _facts(taker: Taker, found: Outcome, policy: Policy) -> dict[str, Json]:
    """Return what is in the dataset, and what became of every label that was read."""
    near = {name: difflib.get_close_matches(fold(name), policy.names, n=1) for name in taker.unknown}
    labels, lost = taker.labels, taker.odd.lost
    left = Counter(labels.left_out.counts) + lost.counts + Counter({LOST: found.lost})
    examples = {**labels.left_out.examples, **lost.examples}
    return {
        "label_files": taker.files,
        "by_state": _states(found, taker.by),
        "covers": list(taker.covers),
        "not_covered": [name for name in policy.names if name not in taker.covers],
        "boxes": found.boxes.total(),
        "boxes_by_category": dict(found.boxes),
        "image_labels": found.whole.total(),
        "image_labels_by_category": dict(found.whole),
        "labels": {
            "read": labels.read + lost.counts.total(),
            "taken": labels.taken - found.lost,
            "ignored": labels.ignored,
            "left_out": left.total(),
        },
        "left_out": {kind: {"labels": n, "examples": examples.get(kind, [])} for kind, n in left.most_common()},
        "unsure": found.unsure,
        **({"served": taker.served} if taker.served else {}),
        "renamed": dict(taker.renamed),
        "unknown_categories": {
            name: {"boxes": count, "did_you_mean": "".join(near[name])}
            for name, count in taker.unknown.most_common(100)
        },
        "odd": dict(taker.odd.counts),
        "odd_examples": taker.odd.examples,
    }


def _states(found: Outcome, by: str) -> dict[str, Json]:
    """Count images by state; what a model says is reviewed by nobody."""
    if not by:
        return dict(found.states)
    said = found.states["reviewed"] + found.states["confirmed_empty"]
    return {state: n for state, n in (("auto", said), ("unlabelled", found.states["unlabelled"])) if n}


def _pictured(work: Work, examples: list[tuple[str, str]]) -> list[Json]:
    """Name the images of conflicts: the file that a picture came in as, and the copy that says otherwise."""
    kept = work.dataset.pool.get([id_ for id_, _ in examples], ["origin"])
    names = {id_: str(json.loads(str(row["origin"])).get("source", id_[:12])) for id_, row in kept.items()}
    return [why if why.startswith(f"{names[id_]}: ") else f"{names[id_]}, {why}" for id_, why in examples]


def _plainly(facts: Mapping[str, Any]) -> Iterator[str]:
    """Say what a person should look at, in a line each."""
    labels, conflicts = facts["labels"], facts["conflicts"]
    for why in facts["failed_examples"]:
        yield f"failed: {why}"
    if more := facts["failed"] - len(facts["failed_examples"]):
        yield f"… and {_many(more, 'other')} that failed"
    for kind, told in facts["left_alone"].items():
        yield f"left alone: {told['files']} x {kind}, as in {told['example']}"
    if labels["left_out"]:
        unsure = (
            f"; {_many(facts['unsure'], 'image')} unsure for it, and so never called empty" if facts["unsure"] else ""
        )
        yield f"{labels['left_out']} of {_many(labels['read'], 'label')} left out{unsure}:"
        for kind, told in facts["left_out"].items():
            yield f"  {told['labels']} x {kind}" + (f", as in {told['examples'][0]}" if told["examples"] else "")
    if served := facts.get("served"):
        yield f"{_many(served, 'image')} that a served model was unsure about; its scores are kept, and review asks by them"
    for theirs, ours in facts["renamed"].items():
        yield f"labels called {theirs!r} are taken as {ours!r}"
    if unknown := list(facts["unknown_categories"].items())[:NAMED]:
        mapped = ", ".join(f"{_quoted(name)}: {told['did_you_mean'] or 'NAME'}" for name, told in unknown)
        yield f"map the set's names to the policy's, or to \"\" to ignore one: --set {shlex.quote(f'categories={{{mapped}}}')}"
    if conflicts["images"]:
        more = f", as in {conflicts['examples'][0]}"
        yield f"{_many(conflicts['images'], 'picture')} labelled in ways that cannot all be so; all labels are kept{more}"
    for kind, count in facts["odd"].items():
        yield f"{count} x {kind}, as in {facts['odd_examples'][kind][0]}"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _quoted(name: str) -> str:
    """Write a name as a key of YAML that is read as this name, and not as a number or as yes or no."""
    plain = re.fullmatch(r"\w[\w -]*", name) and str(yaml.safe_load(name)) == name
    return name if plain else json.dumps(name, ensure_ascii=False)
