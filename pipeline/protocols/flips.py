"""Policy flips: the same images under several policies, of which each turns a clause around or adds one.

Where the truth of an image under a policy is another than under the base, the decision on the categories that changed must be right under
both; where it is the same, whether the image is flagged must not change. Stage 1 and the reading of words are done once an image, as they
do not depend on what a policy says.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from tilth.claims import Json
from tilth.errors import InputError
from tilth.pipeline.protocols.folder import BASE, Folder, under
from tilth.pipeline.protocols.rates import shares
from tilth.pipeline.protocols.said import FULL, VISION, Seen, named, vision_of
from tilth.pipeline.protocols.two_stage import ALWAYS, few
from tilth.runtime.bundles.bundle import load_bundle
from tilth.runtime.stages.cascade import Verdict

FIXED = "fixed labels"  # the base policy's decisions, kept whatever the policy says

Verdicts = dict[str, Verdict]


def flips(
    bundle: Path, folder: Folder, *, threads: int = 0, seed: int = 0, advance: Callable[[int], None] = lambda n: None
) -> dict[str, Json]:
    """Judge all images under all policies, and return all numbers of the protocol.

    Raises:
        InputError: There is no other policy, or the bundle cannot be given one.
    """
    if not folder.flips:
        raise InputError(f"{folder.path}: has no policy but {BASE}; flips need another beside it")
    moderator = load_bundle(bundle, threads=threads)
    bundle_name, seen = moderator.name, Seen(moderator, folder)
    said: dict[str, dict[str, Verdicts]] = {FULL: {}, VISION: {}}
    with tempfile.TemporaryDirectory() as made:
        for name in folder.policies:
            moderator = under(bundle, folder, name, Path(made) / name, threads=threads)
            alone = vision_of(moderator)
            said[FULL][name], said[VISION][name] = {}, {}
            for file in folder.answers[name]:
                said[FULL][name] |= seen.judge(moderator, [file])
                said[VISION][name] |= seen.judge(alone, [file])
                advance(1)
    said[FIXED] = dict.fromkeys(folder.policies, said[FULL][BASE])
    judges = {name: told(folder, verdicts, seed) for name, verdicts in said.items()}
    return {
        "bundle": bundle_name,
        "images": len(folder.answers[BASE]),
        "policies": folder.flips,
        "not_decoded": few([{"file": file, "why": why} for file, why in seen.broken.items()]),
        "judges": {**judges, ALWAYS: told(folder, None, seed)},
    }


def told(folder: Folder, verdicts: Mapping[str, Verdicts] | None, seed: int = 0) -> dict[str, Json]:
    """Return the shares of flips that are right and of other decisions that changed, overall and by policy.

    Args:
        folder: What is true.
        verdicts: By policy, then by image; None for calling everything unsafe.
        seed: Of the bootstrap samples.
    """
    said = (
        None if verdicts is None else {name: {f: named(v) for f, v in some.items()} for name, some in verdicts.items()}
    )
    files = [file for file in folder.answers[BASE] if said is None or file in said[BASE]]
    place = {file: i for i, file in enumerate(files)}
    cases: dict[str, list[tuple[int, str, bool]]] = {"flips_right": [], "spill": []}
    for policy in folder.flips:
        for file in folder.answers[policy]:
            if file not in place:
                continue
            before, after = folder.unsafe(BASE, file), folder.unsafe(policy, file)
            old, new = (before | after,) * 2 if said is None else (said[BASE][file], said[policy][file])
            if changed := before ^ after:
                right = old & changed == before & changed and new & changed == after & changed
                cases["flips_right"].append((place[file], policy, right))
            else:
                cases["spill"].append((place[file], policy, bool(old) is not bool(new)))
    whole: dict[str, Json] = {}
    by_policy: dict[str, dict[str, Json]] = {policy: {} for policy in folder.flips}
    for what, rows in cases.items():
        owner, yes = np.array([row[0] for row in rows], int), np.array([row[2] for row in rows], bool)
        whole[what] = {"cases": len(rows), **shares({what: (owner, yes)}, len(files), seed=seed)[what]}
        count = Counter(policy for _, policy, _ in rows)
        right_ones = Counter(policy for _, policy, good in rows if good)
        for policy in folder.flips:
            share = round(right_ones[policy] / count[policy], 4) if count[policy] else None
            by_policy[policy][what] = {"cases": count[policy], "mean": share}
    return {**whole, "per_policy": dict(by_policy)}
