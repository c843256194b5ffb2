"""The step `import.text`: tables of texts, and labels of other tools for them, become samples with claims."""

from collections.abc import Iterator, Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from tilth.annotate.exchange.taking import called_apart
from tilth.annotate.formats.parts.records import EXAMPLES
from tilth.annotate.texts.rows import Rows
from tilth.annotate.texts.sets import SETS, TextSet
from tilth.annotate.texts.taking import TextTaker, check_names
from tilth.claims import Json
from tilth.engine.copies import outcome
from tilth.engine.steps import Facts, fingerprint, inputs_digest, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.samples import TEXT


@step
class ImportText:
    """Take in texts, with the labels that a table has for them.

    Labels are read from a column of names (`label`), from columns that are called as categories and hold 1 and 0, and from lists of
    `{category, start, end}`, whose characters are counted from 0.

    Args:
        path: A `.jsonl`, `.json`, `.csv`, `.tsv`, `.parquet`, `.arrow` or `.txt` file, or a folder of them, as `datasets` saves it.
        like: Public set that the table is of, so that its columns are known: toxic-chat, openai-moderation, aegis2, beavertails, xstest or
            harmbench.
        text: Column of the text; several are joined. One of the usual names when empty.
        label: Column of the names of what the text shows; one of the usual names when empty.
        split: Put the texts into this split; when empty, that which a column `split` or the table's own name tells, such as `test.jsonl`.
        empty_means: What a text without labels is: not looked at, or looked at and empty.
        licence: Of the texts, kept with each.
        language: Column that says in which language a text is.
        parent: Column with the id of the sample whose words the text is, such as the image that it was read from.
        categories: The table's names to the policy's; "" ignores a name. Policy names need no entry.
        covers: The policy's categories that whoever labelled looked for; those decided by words when empty.
    """

    media: ClassVar[tuple[str, ...]] = (TEXT,)

    path: Path
    like: Literal["", "toxic-chat", "openai-moderation", "aegis2", "beavertails", "xstest", "harmbench"] = ""
    text: str | tuple[str, ...] = ()
    label: str = ""
    split: Literal["", "train", "val", "test"] = ""
    empty_means: Literal["unlabelled", "confirmed_empty"] = "unlabelled"
    licence: str = ""
    language: str = ""
    parent: str = ""
    categories: Mapping[str, str] = field(default_factory=dict)
    covers: tuple[str, ...] = ()

    def inputs(self) -> tuple[Path, ...]:
        """The tables."""
        return (self.path.expanduser(),)

    def run(self, work: Work) -> Facts:
        """Read everything once.

        Raises:
            InputError: The path holds no table of texts, or a setting names what the policy does not have.
        """
        check_names(work.policy, self.categories, self.covers)
        path = self.path.expanduser().resolve()
        rows = Rows(path)
        names = sorted(name for c in work.policy.categories for name in (c.name, *c.also))
        key = fingerprint(self, inputs_digest(self.inputs()), *names)
        taker = TextTaker(
            how=self._how(),
            policy=work.policy,
            categories=self.categories,
            covers=self.covers,
            empty_means=self.empty_means,
            called=called_apart(work.dataset.root, path),
            key=key,
            origin={"licence": self.licence, "step": work.name},
            split=self.split,
        )
        counts = work.add(key, map(taker.take, rows), total=rows.count())
        if not counts:
            raise InputError(f"{self.path}: no rows in it")
        table = work.dataset.table(f"{work.name}-{key}")
        found = outcome(table)
        facts: dict[str, Json] = {
            "texts": counts.get("ok", 0),
            "copies": counts.get("dropped", 0),
            "failed": counts.get("failed", 0),
            "failed_examples": [why for _, why in table.failures(EXAMPLES)],
            "by_state": dict(found.states),
            "labels": dict(found.whole + found.boxes),
            "spans": taker.spans,
            "unknown_categories": dict(taker.unknown.most_common(100)),
            "odd": dict(taker.odd.counts),
            "odd_examples": taker.odd.examples,
        }
        for line in _plainly(facts, taker):
            work.events.emit("note", step=work.name, message=line)
        return facts

    def _how(self) -> TextSet:
        """Return how rows are read: as those of a public set, but for what the settings say."""
        known = SETS[self.like] if self.like else TextSet(text=())
        text = (self.text,) if isinstance(self.text, str) else self.text
        more = {"text": tuple(name for name in text if name), "label": self.label}
        given = {name: value for name, value in more.items() if value}
        return replace(known, **given, language=self.language, parent=self.parent)  # type: ignore[arg-type]


def _plainly(facts: Mapping[str, Any], taker: TextTaker) -> Iterator[str]:
    """Say what a person should look at, in a line each."""
    for why in facts["failed_examples"]:
        yield f"failed: {why}"
    if more := facts["failed"] - len(facts["failed_examples"]):
        yield f"… and {more:,} others that failed"
    if taker.unknown:
        counts = ", ".join(f"{name} ({count:,})" for name, count in taker.unknown.most_common(EXAMPLES))
        mapped = ", ".join(f"{name}: NAME" for name, _ in taker.unknown.most_common(EXAMPLES))
        yield f"labels of names that the policy does not have, left out, so that their texts are never called empty: {counts}"
        yield f"map them, or give \"\" to ignore one: --set 'categories={{{mapped}}}'"
    for kind, count in facts["odd"].items():
        yield f"{count:,} x {kind}, as in {facts['odd_examples'][kind][0]}"
