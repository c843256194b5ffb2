"""Change the policy of a bundle without training: what words mean is text that the language model reads, thresholds are numbers.

What is pictured was learned, so those categories stay; their thresholds, severities and names for people may change. What is written may
change, come and go, where the language model reads definitions and was not taught a list of categories.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from tilth.claims import Json
from tilth.data.files import folder_beside
from tilth.errors import InputError
from tilth.extras import optional
from tilth.policy import Policy, load_policy
from tilth.runtime.bundles.bundle import MANIFEST, digest_of, in_use, load_bundle, seal, verify
from tilth.runtime.bundles.routing import ROUTER, meanings
from tilth.runtime.bundles.settings import ClassifierSettings, VerdictSettings, read_settings, write_policy
from tilth.runtime.judges.guards import check_words
from tilth.runtime.judges.rows import strange_words
from tilth.runtime.stages.template import SAFE

CARD = "README.md"


def repolicy(
    folder: Path,
    policy: Path,
    out: Path,
    *,
    made: str,
    clear_below: float | None = None,
    facts: Mapping[str, Json] | None = None,
) -> list[str]:
    """Make a bundle with another policy of the models of one that there is.

    Args:
        folder: The bundle, or a champion.
        policy: The new policy file.
        out: Folder of the new bundle, which must not be there.
        made: When, for its manifest.
        clear_below: Of the new bundle; that of the old one when None.
        facts: What else its manifest is to say.

    Returns:
        What changed, a line each.

    Raises:
        InputError: The models do not know the policy's categories, or `out` is there.
        ModelError: The bundle was changed since it was sealed.
    """
    folder = in_use(folder)
    if out.exists():
        raise InputError(f"{out} is there already; name another --out")
    manifest = verify(folder)
    before, after = load_policy(folder / "policy.yaml"), load_policy(policy)
    _check(folder, before, after)
    after = _aimed(before, after)
    told = json.loads((folder / MANIFEST).read_text())
    kept: dict[str, Json] = {key: value for key, value in told.items() if key not in ("format", "clear_below", "files")}
    was = f"{before.policy}-v{before.version}@{digest_of(folder)}"
    lowest = min((c.review_above for c in after.pictured), default=1.0)
    changed, kept_files = _changes(before, after), [*manifest.files]
    if (folder / ROUTER[0]).is_file() and meanings(before) != meanings(after):
        kept_files = [name for name in kept_files if name not in ROUTER]
        changed.append("the router is gone, as it learned other words; learn it again with train.router")
    with folder_beside(out) as partial:
        partial.mkdir(parents=True)
        for name in kept_files:
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / name, partial / name)
        write_policy(partial, after)
        if (folder / "verdict.json").is_file():
            verdict = json.loads((folder / "verdict.json").read_text())
            settings = read_settings(folder / "verdict.json", VerdictSettings)
            if settings.reads_definitions or settings.form == "qwen3guard":
                verdict["labels"] = [*settings.verdicts(after)]
            (partial / "verdict.json").write_text(json.dumps(verdict, indent=2) + "\n")
        if (partial / CARD).exists():
            _say_so(partial / CARD, f"{after.policy} v{after.version}", was)
        seal(
            partial,
            clear_below=min(manifest.clear_below if clear_below is None else clear_below, lowest),
            facts={**kept, **(facts or {}), "made": made, "policy_instead_of": was, "policy_changes": [*changed]},
        )
        try:
            load_bundle(partial, tuned=False)  # which asks each model once
        except BaseException:
            shutil.rmtree(partial)
            raise
    return changed


def _check(folder: Path, before: Policy, after: Policy) -> None:
    """Refuse what no text can change.

    Raises:
        InputError: All of it is listed.
    """
    known = read_settings(folder / "classifier.json", ClassifierSettings).labels
    wrong = [f"{name} is pictured and no model learned it; train with it" for name in
             (c.name for c in after.pictured) if name not in known]  # fmt: skip
    wrong += [
        f"the models find {name}, which the policy lacks; keep it, with review_above: 1 and block_above: 1 where nobody should look"
        for name in known
        if name not in after.names
    ]
    wrong += [f"{category.name} is heard, and nothing in a bundle hears" for category in after.heard]
    written = [category.name for category in after.written]
    if not (folder / "verdict.json").is_file():
        wrong += [f"{name} is decided by words, and this bundle has no language model" for name in written]
    else:
        verdict = read_settings(folder / "verdict.json", VerdictSettings)
        if verdict.form == "qwen3guard":
            check_words(written, verdict.words)
        elif not verdict.reads_definitions:
            taught = f"its language model was taught {', '.join(verdict.labels)} and reads no definitions"
            wrong += [
                f"{name}: {taught}; package with another language_model"
                for name in written
                if name not in verdict.labels
            ]
            wrong += [f"{n} is missing: {taught}" for n in verdict.labels if n not in (SAFE, *after.names)]
            means = {c.name: c.definition for c in before.categories}
            wrong += [
                f"{c.name} means something else now: {taught}; package with another language_model"
                for c in after.written
                if c.name in means and means[c.name] != c.definition
            ]
        elif len(verdict.verdicts(after)) > verdict.most_labels:
            wrong.append(f"the language model tells at most {verdict.most_labels - 1} categories apart; leave some out")
        elif verdict.whole_words:
            with optional():
                from tokenizers import Tokenizer
            wrong += [
                f"the language model does not know {words}; say it in its words (docs/policy.md, Write clauses), or package with another"
                for words in strange_words(Tokenizer.from_file(str(folder / "tokenizer.json")), after)
            ]
    if wrong:
        raise InputError("\n".join(wrong))


def _aimed(before: Policy, after: Policy) -> Policy:
    """Keep the thresholds that calibration found for an aim that stays.

    Raises:
        InputError: An aim is new, and what reaches it nobody measured.
    """
    kept = []
    for category in after.categories:
        if category.review_at is not None:
            old = before[category.name] if category.name in before.names else None
            if old is None or old.review_at != category.review_at:
                raise InputError(
                    f"{category.name}: review_at is new, and only calibrate can find what reaches it; package again, or give review_above"
                )
            category = category.model_copy(
                update={"review_above": old.review_above, "block_above": max(old.review_above, category.block_above)}
            )
        kept.append(category)
    return after.with_categories(kept)


def _changes(before: Policy, after: Policy) -> list[str]:
    """Say what the new policy changes."""
    told = [f"{name} is gone" for name in before.names if name not in after.names]
    for category in after.categories:
        if category.name not in before.names:
            told.append(f"{category.name} is new")
            continue
        old, new = before[category.name].model_dump(), category.model_dump()
        told += [
            f"{category.name}: {key} is now {new[key]!r}, was {old[key]!r}"
            for key in ("definition", "severity", "review_above", "block_above", "evidence")
            if old[key] != new[key]
        ]
    return told


def _say_so(card: Path, policy: str, was: str) -> None:
    """Write into a model card that its numbers are of another policy, below what Hugging Face reads."""
    text = card.read_text(encoding="utf-8")
    head, mark, rest = text.partition("\n---\n") if text.startswith("---\n") else ("", "", text)
    note = f"\n> The policy was changed to {policy} without training or measuring; what follows was measured with {was}.\n\n"
    card.write_text(head + mark + note + rest.lstrip("\n"), encoding="utf-8")
