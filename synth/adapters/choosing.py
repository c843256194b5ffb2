"""Which images an adapter learns from, and what is said of them; none that labels or words say is of what is never generated."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tilth.claims import State
from tilth.data.where import both, one_of, quoted
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.policy import Policy
from tilth.samples import Sample
from tilth.synth.adapters.captions import Fits, contents, written
from tilth.synth.adapters.settings import Captions, Slice
from tilth.synth.plan.survey import said_of
from tilth.synth.safety.refusals import examine, examine_category, refuse

FEWEST = 5
REAL = "not made and split != 'test' and split != 'val'"
Describe = Callable[[Sequence[Sample]], Sequence[str]]
"""Says what is in each image."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One image to learn from.

    Args:
        sample: With its file.
        captions: All of it that can be said; one is told at a time.
        contents: What is in it, in as many words as there are captions; nothing of images of the prior.
        val: Whether it is held back.
        prior: Whether it keeps what the model knew.
    """

    sample: Sample
    captions: tuple[str, ...]
    contents: tuple[str, ...] = ()
    val: bool = False
    prior: bool = False


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The images of a slice.

    Args:
        shown: Each once.
        matched: Images that the slice names.
        refused: Of these, those that came with words for, or labels of, what is never generated.
    """

    shown: list[Shown] = field(default_factory=list)
    matched: int = 0
    refused: int = 0


def never(policy: Policy) -> frozenset[str]:
    """Name the categories of a policy that are never generated."""
    return frozenset(category.name for category in policy.categories if examine_category(category) is not None)


def check(policy: Policy, images: Slice, name: str) -> None:
    """Refuse a slice of categories that there are not, or that are never generated.

    Args:
        policy: Of the recipe.
        images: The slice.
        name: Of the step.

    Raises:
        InputError: It names one.
    """
    policy.check_pictured(images.categories, name)
    if asked := sorted(never(policy).intersection(images.categories)):
        raise InputError(
            f"{name}: {', '.join(asked)} is never generated, so no model is taught it; no setting allows it"
        )


def condition(images: Slice) -> str:
    """Write what all images of a slice have in common."""
    style = f"style = {quoted(images.style)}" if images.style and not images.where else ""
    labels = " or ".join(f"array_has(categories, {quoted(name)})" for name in images.categories)
    return both(REAL, one_of("state", [s.value for s in State if s is not State.REJECTED]), images.where, style, labels)


def may_teach(sample: Sample, forbidden: frozenset[str], told: Mapping[str, str]) -> bool:
    """Tell whether a model may learn from an image: by all that was ever claimed of it, and all words that came with it.

    Args:
        sample: With its file.
        forbidden: Categories that are never generated.
        told: Other words of the same training.
    """
    if any(claim.category in forbidden for claim in sample.claims):
        return False
    return examine({**told, "reference": said_of(sample)}) is None


def choose(work: Work, images: Slice, captions: Captions, fits: Fits, describe: Describe | None = None) -> Chosen:
    """Choose the images of a slice, hold some back, and caption each.

    Args:
        work: Of the step.
        images: Which.
        captions: How they are described.
        fits: Whether the model reads a text to its end.
        describe: The captioner; the labels say what is in an image when None.

    Raises:
        InputError: Fewer than five images are left; a category is unknown or never generated.
    """
    check(work.policy, images, work.name)
    forbidden = never(work.policy)
    word = captions.word(images.style)
    ids = sorted(id_ for some in work.dataset.ids(condition(images), dropped=False) for id_ in some)
    kept, refused = list[Sample](), 0
    for start in range(0, len(ids), 64):  # ids are hashes: the first ones are a fair draw
        for sample in work.dataset.read(ids[start : start + 64]):
            fine = may_teach(sample, forbidden, {"trigger": word})
            refused += not fine
            kept += [sample] if fine else []
        if len(kept) >= images.most:
            break
    kept = kept[: images.most]
    if len(kept) < FEWEST:
        told = f" and {refused} came with words or labels that are refused" if refused else ""
        raise InputError(
            f"{work.name}: an adapter needs at least {FEWEST} real images of the training split, and {len(ids)} are in the slice"
            f"{told}; the slice is: {condition(images)}"
        )
    said = [[text] for text in describe(kept)] if describe else [contents(sample, work.policy) for sample in kept]
    held = max(1, round(len(kept) * images.val_share))
    shown = []
    for number, (sample, all_said) in enumerate(zip(kept, said, strict=True)):
        texts = dict.fromkeys(written(each, word, captions, fits) for each in all_said)
        for text in texts:
            refuse({"caption": text, "reference": said_of(sample)})
        shown.append(
            Shown(sample=sample, captions=tuple(texts), contents=tuple(all_said), val=number >= len(kept) - held)
        )
    return Chosen(shown=shown, matched=len(ids), refused=refused)


def digest(shown: Sequence[Shown]) -> str:
    """Name all that is learned from: images, their captions, and what is held back."""
    whole = hashlib.sha256()
    for one in shown:
        whole.update(f"{one.sample.id} {one.val:d} {one.prior:d} {' | '.join(one.captions)}\n".encode())
    return whole.hexdigest()[:12]
