"""The step `import.sound`: folders of sounds, and tables of labels for them, become samples with claims."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import field, replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Literal

from tilth.annotate.exchange.taking import called_apart
from tilth.annotate.formats.parts.files import Files
from tilth.annotate.formats.parts.records import EXAMPLES
from tilth.annotate.sounds.taking import SoundTaker
from tilth.annotate.texts.rows import Row, Rows
from tilth.annotate.texts.sets import TextSet
from tilth.annotate.texts.taking import check_names
from tilth.claims import Json
from tilth.engine.copies import outcome
from tilth.engine.steps import Facts, fingerprint, inputs_digest, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.samples import SOUND
from tilth.sounds import SUFFIXES

TABLES = (".jsonl", ".csv", ".parquet")
METADATA = "metadata"  # as `datasets` calls the table of a folder


@step
class ImportSound:
    """Take in sounds, with the labels that a table has for them.

    A table names a sound in the column `file_name`, relative to itself. Labels are read as of texts: from a column of names, from columns
    that are called as categories and hold 1 and 0, and from lists of `{category, start, end}`, in seconds. Sounds that no table names are
    taken in without labels.

    Args:
        path: A folder of `.wav`, `.flac`, `.ogg`, `.opus` and `.mp3` files.
        table: Table of labels in the folder, `.jsonl`, `.csv` or `.parquet`; every `metadata` table below the folder when empty.
        label: Column of the names of what is heard; one of the usual names when empty.
        split: Put the sounds into this split; when empty, that which a column `split` or the table's folder tells.
        empty_means: What a sound without labels is: not listened to, or listened to and empty.
        licence: Of the sounds, kept with each.
        parent: Column with the id of the sample that the sound belongs to, such as its video's frame; both stay in one split.
        slices: Columns that are kept as `sound.<column>`, to measure by.
        categories: The table's names to the policy's; "" ignores a name. Policy names need no entry.
        covers: The policy's categories that whoever labelled listened for; those that are heard when empty.
    """

    media: ClassVar[tuple[str, ...]] = (SOUND,)

    path: Path
    table: str = ""
    label: str = ""
    split: Literal["", "train", "val", "test"] = ""
    empty_means: Literal["unlabelled", "confirmed_empty"] = "unlabelled"
    licence: str = ""
    parent: str = ""
    slices: tuple[str, ...] = ()
    categories: Mapping[str, str] = field(default_factory=dict)
    covers: tuple[str, ...] = ()

    def inputs(self) -> tuple[Path, ...]:
        """The folder."""
        return (self.path.expanduser(),)

    def run(self, work: Work) -> Facts:
        """Read everything once.

        Raises:
            InputError: The path holds no sound, or a setting names what the policy or the folder does not have.
        """
        check_names(work.policy, self.categories, self.covers)
        root = self.path.expanduser().resolve()
        if not root.is_dir():
            raise InputError(f"{self.path}: no folder of sounds")
        names = sorted(name for c in work.policy.categories for name in (c.name, *c.also))
        key = fingerprint(self, inputs_digest(self.inputs()), *names)
        taker = SoundTaker(
            how=replace(TextSet(text=()), label=self.label, parent=self.parent),
            policy=work.policy,
            categories=self.categories,
            covers=self.covers,
            empty_means=self.empty_means,
            called=called_apart(work.dataset.root, root),
            key=key,
            origin={"licence": self.licence, "step": work.name},
            split=self.split,
            root=root,
            named=set(),
            slices=self.slices,
        )
        counts = work.add(key, map(taker.take, chain(self._told(root), _untold(root, taker.named))), total=None)
        if not counts:
            raise InputError(f"{self.path}: no sound in it; those read are {', '.join(SUFFIXES)}")
        table = work.dataset.table(f"{work.name}-{key}")
        found = outcome(table)
        facts: dict[str, Json] = {
            "sounds": counts.get("ok", 0),
            "copies": counts.get("dropped", 0),
            "failed": counts.get("failed", 0),
            "failed_examples": [why for _, why in table.failures(EXAMPLES)],
            "by_state": dict(found.states),
            "labels": dict(Counter(found.whole) + Counter(found.boxes)),
            "spans": taker.spans,
            "unknown_categories": dict(taker.unknown.most_common(100)),
            "odd": dict(taker.odd.counts),
            "odd_examples": taker.odd.examples,
        }
        for line in _plainly(facts):
            work.events.emit("note", step=work.name, message=line)
        return facts

    def _told(self, root: Path) -> Iterator[Row]:
        """Yield the rows of the tables; their files are told relative to the folder."""
        if self.table:
            files = [self.table]
            if not (root / self.table).is_file():
                raise InputError(f"table: no {self.table} in {self.path}")
        else:
            files = [name for name in Files(root, TABLES) if Path(name).stem == METADATA]
        for file in files:
            for row in Rows(root / file):
                yield replace(row, file=file)


def _untold(root: Path, named: set[str]) -> Iterator[Row]:
    """Yield a row for each sound that no table named; asked once the tables are read."""
    for number, file in enumerate(Files(root, SUFFIXES), 1):
        if file not in named:
            folder, _, name = file.rpartition("/")
            yield Row(file=f"{folder}/sounds" if folder else "sounds", number=number, cells={"file_name": name})


def _plainly(facts: Mapping[str, Any]) -> Iterator[str]:
    """Say what a person should look at, in a line each."""
    for why in facts["failed_examples"]:
        yield f"failed: {why}"
    if more := facts["failed"] - len(facts["failed_examples"]):
        yield f"… and {more:,} others that failed"
    if unknown := facts["unknown_categories"]:
        counts = ", ".join(f"{name} ({count:,})" for name, count in list(unknown.items())[:EXAMPLES])
        yield f"labels of names that the policy does not have, left out, so that their sounds are never called empty: {counts}"
    for kind, count in facts["odd"].items():
        yield f"{count:,} x {kind}, as in {facts['odd_examples'][kind][0]}"
