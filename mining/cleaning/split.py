"""Divide the dataset into train and val, so that relatives stay together.

Relatives are near-duplicates (the column `dedup.group`), of a generated image the images it was made from, and of a text the image whose
words it is.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from tilth.data.dataset import Dataset
from tilth.engine.apply import Apply
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.samples import IMAGE, SOUND, TEXT, Result

GUARDED = ("test", "val", "train")  # a group that was given several splits stays in the first of these


@dataclass(frozen=True, kw_only=True)
class Member:
    """What the division needs to know of a sample; `group` is its own id when it has no near-duplicate, `of` whose words a text is."""

    id: str
    group: str
    source: str = ""
    given: str = ""
    made: bool = False
    parents: tuple[str, ...] = ()
    of: str = ""
    dropped: bool = False


def members(dataset: Dataset) -> Iterator[Member]:
    """Yield all samples, dropped ones too, with their relatives."""
    names = ("id", "media", "dedup.group", "source", "split", "made", "origin", "dropped")
    for id_, media, group, source, split, made, origin, dropped in dataset.cells(*names, dropped=True):
        told = json.loads(str(origin)) if made or media != IMAGE else {}
        parents = told.get("parents") if made else None
        yield Member(
            id=str(id_),
            group=str(group or id_),
            source=str(source or ""),
            given=str(split),
            made=bool(made),
            parents=tuple(map(str, parents)) if isinstance(parents, list) else (),
            of=str(told.get("of") or ""),
            dropped=dropped is not None,
        )


def by_hash(name: str, seed: int, val_share: float) -> str:
    """Draw the split of a group from its name: the same in every run, whatever else the dataset holds."""
    drawn = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big") / 2**64
    return "val" if drawn < val_share else "train"


class Division:
    """The splits of all samples.

    Near-duplicates are a group, and so are an image and the texts that were read in it.
    A group keeps a split that one of its members was given; a group with a real image is drawn by hash; a group of
    generated images follows their parents, and goes to train when none is known, since validation is on real images.
    """

    def __init__(self, members: Iterable[Member], seed: int, val_share: float) -> None:
        self._seed, self._val_share = seed, val_share
        self._members: dict[str, Member] = {}
        self._groups: dict[str, list[Member]] = {}
        for each in members:
            self._members[each.id] = each
        joined = _joined(self._members)
        for each in self._members.values():
            if joined.get(each.group, each.group) != each.group:
                self._members[each.id] = each = replace(each, group=joined[each.group])
            self._groups.setdefault(each.group, []).append(each)
        self._splits: dict[str, str] = {}

    def of(self, group: str, below: frozenset[str] = frozenset()) -> str:
        """Return the split of a group; `below` are the groups that ask, should parents form a ring."""
        if group not in self._splits:
            split = self._find(group, below | {group})
            if below:
                return split  # seen from inside a ring it might differ
            self._splits[group] = split
        return self._splits[group]

    def _find(self, group: str, below: frozenset[str]) -> str:
        members = self._groups.get(group, [])
        # what was dropped guards nothing, else the one that stayed would go, too; nor does what was made, beside real ones
        here = [m for m in members if not m.dropped]
        given = {m.given for m in here if not m.made} or {m.given for m in here}
        for split in GUARDED:
            if split in given:
                return split
        if any(not m.made for m in members):
            return by_hash(group, self._seed, self._val_share)
        parents = {self._members[p].group for m in members for p in m.parents if p in self._members} - below
        splits = {self.of(parent, below) for parent in parents}
        return next((split for split in GUARDED if split in splits), "train")

    def results(self) -> dict[str, Result]:
        """Return the split of every sample that is not dropped, or why it must go."""
        found: dict[str, Result] = {}
        for each in self._members.values():
            if each.dropped:
                continue
            split = self.of(each.group)
            reason = ""
            if each.given not in ("", split):
                others = (m for m in self._groups[each.group] if m is not each and not m.dropped)
                other = min(others, key=lambda m: (m.given != split, m.made, m.id))
                reason = f"near-duplicate of {other.id[:12]} ({other.source}) in {split}"
            if split == "test" and not each.given:  # the sealed set never grows, and nothing near it is learnt from
                reason = "relative of a sealed test image"
            for parent in each.parents if each.made else ():
                theirs = self.of(self._members[parent].group) if parent in self._members else split
                if theirs != split and not reason:
                    reason = f"made from {parent[:12]} in {theirs}, but belongs to {split}"
            found[each.id] = Result(dropped=reason) if reason else Result(columns={"split": split})
        return found


def _joined(members: Mapping[str, Member]) -> dict[str, str]:
    """Return for each group of texts that were read in something the group that it joins, whose name it takes."""
    joined: dict[str, str] = {}

    def last(group: str) -> str:
        while group in joined:
            group = joined[group]
        return group

    for each in members.values():
        if each.of in members and (mine := last(each.group)) != (theirs := last(members[each.of].group)):
            joined[mine] = theirs
    return {group: last(group) for group in joined}


@step
class Split:
    """Divide the samples into train and val by group, drawn from ids; a split that was given before stays.

    Args:
        val_share: Share of the groups that go to val.
    """

    media: ClassVar[tuple[str, ...]] = (IMAGE, TEXT, SOUND)

    val_share: float = 0.15

    def __post_init__(self) -> None:
        """Check the settings."""
        if not 0 <= self.val_share < 1:
            raise ValueError(f"val_share must lie in [0, 1), got {self.val_share}")

    def run(self, work: Work) -> Facts:
        """Divide."""
        results = Division(members(work.dataset), work.seed, self.val_share).results()
        Apply.to(work, results)
        splits = [str(r.columns.get("split", "")) for r in results.values()]
        return {
            **{name: splits.count(name) for name in ("train", "val", "test")},
            "dropped": sum(bool(r.dropped) for r in results.values()),
        }
