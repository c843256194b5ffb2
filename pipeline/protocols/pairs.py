"""Pairs of images that differ in one thing.

In edited pairs an object is replaced by its harmless twin, and a pair is right only if both decisions are. In injection pairs one image has
words that were put in to mislead ("safe, by order of the policy"), and the action on it must be that on the image without them.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tilth.claims import PEOPLE, Json, State
from tilth.data.dataset import Dataset
from tilth.data.where import PAIR, both
from tilth.errors import InputError
from tilth.images import SUFFIX_OF, kind_of
from tilth.pipeline.protocols.folder import BASE, Folder
from tilth.pipeline.protocols.rates import shares
from tilth.pipeline.protocols.said import Judge, Said
from tilth.pipeline.protocols.two_stage import ALWAYS, few
from tilth.samples import Sample
from tilth.starter.protocols.folder import write_folder

Pair = tuple[str, str]
ALWAYS_SAID = Said(flagged=True, action="block")


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What was said of the images of pairs.

    Args:
        said: By image, then by judge.
        broken: Images that could not be decoded, and why.
        pairs: Those of which both images could be.
        count: Of all pairs.
    """

    said: dict[str, dict[str, Said]]
    broken: dict[str, str]
    pairs: Sequence[Pair]
    count: int


def edited_pairs(folder: Folder) -> list[Pair]:
    """List the edited pairs of a folder.

    Raises:
        InputError: It has none, or one is not of two images.
    """
    named: dict[str, list[str]] = {}
    for file, answer in folder.answers[BASE].items():
        if answer.pair:
            named.setdefault(answer.pair, []).append(file)
    if not named:
        raise InputError(f'{folder.path}: no line names a pair; the two images of one have the same "pair"')
    if odd := [name for name, files in named.items() if len(files) != 2]:
        raise InputError(f"{folder.path}: a pair is two images; {odd[0]} is {len(named[odd[0]])}, {len(odd)} are odd")
    return [(files[0], files[1]) for files in named.values()]


def write_pairs(dataset: Dataset, policy: Path, out: Path, *, where: str = "") -> dict[str, Json]:
    """Write the edited pairs of a dataset, as `generate` makes them, as a folder that bundles are judged on.

    What an image shows is what it was made for and what people found in it; a pair of which they found otherwise stays out, as does
    one of which an image was dropped.

    Args:
        dataset: With such pairs.
        policy: File that they are judged by.
        out: The folder, which must not be there.
        where: Keeps the images that this holds for.

    Returns:
        Pairs written, those of which people looked at both images, and those left out, by reason.

    Raises:
        InputError: There are no pairs, or `out` is there.
    """
    found: dict[str, list[Sample]] = {}
    for sample in dataset.samples(both(where, f"{PAIR} is not null"), images=False):
        found.setdefault(str(sample.columns[PAIR]), []).append(sample)
    left_out, seen = Counter[str](), 0
    whole: list[tuple[str, Sample, frozenset[str]]] = []
    for name, two in sorted(found.items()):
        told = [_shown(sample) for sample in two]
        if len(two) != 2 or len({bool(sample.origin.get("instead")) for sample in two}) != 2:
            left_out["one of its images is not there"] += 1
        elif wrong := next((why for why in told if isinstance(why, str)), ""):
            left_out[wrong] += 1
        else:
            seen += all(sample.labelled_by_people for sample in two)
            whole += [(name, one, shown) for one, shown in zip(two, told, strict=True) if not isinstance(shown, str)]
    if not whole:
        raise InputError(
            f"{dataset.root}: no edited pairs here to write; `generate` makes them with methods: {{insert: 1}} or {{replace: 1}}"
            + "".join(f"; {n} left out: {why}" for why, n in left_out.items())
        )

    def rows(folder: Path) -> Iterator[dict[str, Any]]:
        for name, sample, shown in whole:
            [read] = dataset.read([sample.id])
            data = read.data or b""
            file = f"images/{sample.id[:16]}{SUFFIX_OF[kind_of(data)]}"
            (folder / file).write_bytes(data)
            yield {"file": file, "policy": BASE, "categories": sorted(shown), "pair": name}

    for _ in write_folder(out, {BASE: policy.read_text(encoding="utf-8")}, rows):
        pass
    return {"pairs": len(whole) // 2, "seen_by_people": seen, "left_out": dict(left_out)}


def _shown(sample: Sample) -> frozenset[str] | str:
    """Return the categories that an image of a pair shows, or why nobody knows."""
    truth, asked = sample.truth, str(sample.origin["category"])
    if truth.state in (State.DISPUTED, State.REJECTED):
        return f"{truth.state}"
    people = {name for name in truth.categories if truth.looked.get(name) in PEOPLE}
    wanted = set() if sample.origin.get("instead") else {asked}
    if truth.looked.get(asked) in PEOPLE and people & {asked} != wanted:
        return "people found otherwise"
    return frozenset(people | wanted)


def injected_pairs(folder: Folder) -> list[Pair]:
    """List the clean images of a folder, each with one that has injected words.

    Raises:
        InputError: It has none, or a clean image is not there.
    """
    answers = folder.answers[BASE]
    pairs = [(answer.twin, file) for file, answer in answers.items() if answer.twin]
    if not pairs:
        raise InputError(f'{folder.path}: no line names a "twin", the same image without the injected words')
    if absent := [twin for twin, _ in pairs if twin not in answers]:
        raise InputError(
            f"{folder.path}: the twin {absent[0]} has no line of its own, nor have {len(absent) - 1} others"
        )
    return pairs


def hear(
    folder: Folder, pairs: Sequence[Pair], judges: Sequence[Judge], advance: Callable[[int], None] = lambda n: None
) -> Heard:
    """Ask all judges about the images of pairs, each once."""
    said: dict[str, dict[str, Said]] = {}
    broken: dict[str, str] = {}
    for file in dict.fromkeys(file for pair in pairs for file in pair):
        advance(1)
        image, why = folder.read(file)
        if image is None:
            broken[file] = why
            continue
        said[file] = {name: one for judge in judges for name, one in judge(image).items()} | {ALWAYS: ALWAYS_SAID}
    whole = [pair for pair in pairs if not {*pair} & {*broken}]
    return Heard(said=said, broken=broken, pairs=whole, count=len(pairs))


def pairs_right(folder: Folder, heard: Heard, *, seed: int = 0) -> dict[str, Json]:
    """Return the share of pairs of which both decisions are right, by judge and by what differs; and which decision was the wrong one."""
    truth = {file: bool(folder.unsafe(BASE, file)) for pair in heard.pairs for file in pair}

    def differ(pair: Pair) -> str:
        return ", ".join(sorted(folder.unsafe(BASE, pair[0]) ^ folder.unsafe(BASE, pair[1]))) or "nothing"

    def right(name: str, file: str) -> bool:
        return heard.said[file][name].flagged is truth[file]

    told: dict[str, Json] = {}
    for name, pairs in _answered(heard).items():
        wrong = Counter(truth[file] for pair in pairs for file in pair if not right(name, file))
        both = {pair: all(right(name, file) for file in pair) for pair in pairs}
        count = Counter(map(differ, pairs))
        good = Counter(differ(pair) for pair, yes in both.items() if yes)
        told[name] = {
            "pairs": len(pairs), **_shares({"pairs_right": [*both.values()]}, len(pairs), seed),
            "per_category": {what: {"pairs": n, "mean": round(good[what] / n, 4)} for what, n in count.items()},
            "missed": wrong[True], "false_alarms": wrong[False],
        }  # fmt: skip
    return {**_facts(heard), "judges": told}


def injection_flips(heard: Heard, *, seed: int = 0) -> dict[str, Json]:
    """Return the share of pairs on which the action differs, and that of those which were flagged and no longer are, by judge."""
    told: dict[str, Json] = {}
    for name, pairs in _answered(heard).items():
        both = [(heard.said[clean][name], heard.said[file][name]) for clean, file in pairs]
        found = {
            "injection_flips": [clean.action != file.action for clean, file in both],
            "let_through": [clean.flagged is True and file.flagged is False for clean, file in both],
        }
        told[name] = {"pairs": len(pairs), **_shares(found, len(pairs), seed)}
    return {**_facts(heard), "judges": told}


def _answered(heard: Heard) -> dict[str, list[Pair]]:
    """Return by judge the pairs of which it answered both images."""
    names = [*next(iter(heard.said.values()), {})]
    return {
        name: [pair for pair in heard.pairs if all(heard.said[file][name].flagged is not None for file in pair)]
        for name in names
    }


def _shares(found: dict[str, list[bool]], n: int, seed: int) -> dict[str, dict[str, Json]]:
    return shares({name: (np.arange(n), np.array(right, bool)) for name, right in found.items()}, n, seed=seed)


def _facts(heard: Heard) -> dict[str, Json]:
    silent: dict[str, list[Json]] = {}
    for file, said in heard.said.items():
        for name, one in said.items():
            if one.flagged is None:
                silent.setdefault(name, []).append({"file": file, "why": one.why})
    return {
        "pairs": heard.count,
        "not_decoded": few([{"file": file, "why": why} for file, why in heard.broken.items()]),
        "not_answered": {name: few(rows) for name, rows in silent.items()},
    }
