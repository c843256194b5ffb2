"""What a world is to be like: how many images, of which kinds and styles, how often, and how weak its teacher is."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Literal

import numpy as np

from tilth.claims import Json
from tilth.errors import InputError
from tilth.starter.world.scene import (
    LOOK_ALIKES,
    NEW_KINDS,
    NEW_LOOK_ALIKES,
    NEW_STYLES,
    SAFE_KINDS,
    STYLES,
    UNSAFE_KINDS,
)

REVISION = 1
# Chance that an image shows each single unsafe kind, and that it shows a sign (half of them against the policy).
SHARES = {"labelled": (0.13, 0.10), "corpus": (0.04, 0.05), "test": (0.08, 0.10), "examples": (0.04, 0.05)}
WEAKNESSES = ("lost", "added", "renamed")
COUNTS = ("labelled", "corpus", "test")


@dataclass(frozen=True, kw_only=True)
class World:
    """Settings of a world; the same settings give the same files.

    Args:
        labelled: Number of labelled images.
        corpus: Number of corpus images.
        test: Number of sealed test images.
        seed: Another one gives other images throughout.
        kinds: Unsafe kinds that there are: those that the miniatures were trained on, the new ones, or all; the new ones' look-alikes
            come with them, other harmless things are everywhere.
        prevalence: Chance that a corpus image shows a kind: one number for all, or some by name.
        styles: Of the corpus and the test. Those of `NEW_STYLES` no miniature has seen.
        labelled_styles: Of the labelled images.
        test_styles: Of the test and the examples, where they are not those of the corpus.
        examples: Number of unlabelled images of the test's styles, apart from the corpus.
        copies: Share of the corpus that is a near-duplicate of another corpus image.
        leaks: Share of the corpus that is a copy of a test image.
        rare: `kind:style`, of which corpus and labelled images show a tenth of what they would; the test is as it would be.
        given: Number of labelled images that show each new kind; None leaves it to chance.
        weak_teacher: Shares of boxes `lost` and `renamed`, and boxes `added` an image, of a model that writes what it says of the
            corpus; `knife.lost` is of one category. No such model when empty.
    """

    labelled: int = 60
    corpus: int = 6000
    test: int = 1000
    seed: int = 0
    kinds: Literal["known", "new", "all"] = "known"
    prevalence: float | Mapping[str, float] = SHARES["corpus"][0]
    styles: tuple[str, ...] = STYLES
    labelled_styles: tuple[str, ...] = ("photo",)
    test_styles: tuple[str, ...] = ()
    examples: int = 0
    copies: float = 0.03
    leaks: float = 0.003
    rare: tuple[str, ...] = ()
    given: int | None = None
    weak_teacher: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check everything.

        Raises:
            InputError: A setting is out of its range, or names what there is not.
        """
        for name in (*COUNTS, "examples", "seed"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be at least 0, got {getattr(self, name)}")
        _among((self.kinds,), ("known", "new", "all"), "kinds")
        every = (*STYLES, *NEW_STYLES)
        for name in ("styles", "labelled_styles", "test_styles"):
            _among(getattr(self, name), every, name)
            if not getattr(self, name) and name != "test_styles":
                raise InputError(f"{name} must name at least one of {', '.join(every)}")
        self._check_shares()
        _among((each.partition(":")[0] for each in self.rare), self.unsafe, "rare")
        _among((each.partition(":")[2] for each in self.rare), every, "rare, after the colon")
        if self.given is not None:
            new = [kind for kind in self.unsafe if kind in NEW_KINDS]
            if not new:
                raise InputError("given is of new kinds; take kinds new or all with it")
            if not 0 <= self.given * len(new) <= self.labelled:
                raise InputError(f"given must lie in [0, {self.labelled // len(new)}], got {self.given}")

    def _check_shares(self) -> None:
        told = {"copies": self.copies, "leaks": self.leaks, "copies and leaks": self.copies + self.leaks}
        if isinstance(self.prevalence, Mapping):
            _among(self.prevalence, self.unsafe, "prevalence")
            told |= {f"prevalence of {name}": value for name, value in self.prevalence.items()}
        told["prevalence of all kinds together"] = sum(self.chances("corpus").values())
        for name, value in self.weak_teacher.items():
            category, _, weakness = name.rpartition(".")
            _among((weakness,), WEAKNESSES, "weak_teacher")
            _among((category,) if "." in name else (), self.categories, "weak_teacher")
            if weakness != "added":
                told[f"weak_teacher {name}"] = value
            elif not 0 <= value <= 10:
                raise InputError(f"weak_teacher {name} must lie in [0, 10], got {value}")
        for name, value in told.items():
            if not 0 <= value <= 1:
                raise InputError(f"{name} must lie in [0, 1], got {value:g}")

    @cached_property
    def unsafe(self) -> tuple[str, ...]:
        """The kinds that the policy is against."""
        return (*(UNSAFE_KINDS if self.kinds != "new" else ()), *(NEW_KINDS if self.kinds != "known" else ()))

    @cached_property
    def safe(self) -> tuple[str, ...]:
        """The harmless kinds."""
        return SAFE_KINDS if self.kinds == "known" else (*SAFE_KINDS, *NEW_LOOK_ALIKES.values())

    @cached_property
    def look_alikes(self) -> dict[str, str]:
        """Unsafe kind -> the harmless one that it is mistaken for."""
        return {kind: alike for kind, alike in {**LOOK_ALIKES, **NEW_LOOK_ALIKES}.items() if kind in self.unsafe}

    @cached_property
    def categories(self) -> tuple[str, ...]:
        """What has boxes."""
        return (*self.unsafe, "text_area")

    def chances(self, purpose: str) -> dict[str, float]:
        """Return the chance of each unsafe kind to be in an image of a purpose; an image shows one at most."""
        usual = SHARES[purpose][0]
        if purpose == "corpus":
            told = self.prevalence
            by_kind = told if isinstance(told, Mapping) else dict.fromkeys(self.unsafe, told)
            return {kind: chance for kind in self.unsafe if (chance := by_kind.get(kind, usual))}
        told_apart = NEW_KINDS if purpose == "labelled" and self.given is not None else ()
        return {kind: usual for kind in self.unsafe if kind not in told_apart}

    @cached_property
    def folders(self) -> dict[str, tuple[str, int]]:
        """The purposes that are written, each with its folder and its number of images."""
        told = {
            "labelled": ("labelled/images", self.labelled),
            "corpus": ("corpus", self.corpus),
            "test": ("test/images", self.test),
        }
        return told | ({"examples": ("examples", self.examples)} if self.examples else {})

    def styles_of(self, purpose: str) -> tuple[str, ...]:
        """Return the styles that the images of a purpose are drawn from."""
        if purpose == "labelled":
            return self.labelled_styles
        return (self.test_styles or self.styles) if purpose in ("test", "examples") else self.styles

    def given_kind(self, index: int) -> str:
        """Return the new kind that a labelled image is to show whatever chance says; empty for none."""
        if not self.given:
            return ""
        places = np.random.default_rng((58, self.seed)).permutation(self.labelled)
        new = [kind for kind in self.unsafe if kind in NEW_KINDS]
        place = int(np.flatnonzero(places == index)[0]) if index < self.labelled else self.labelled
        return new[place % len(new)] if place < self.given * len(new) else ""

    def weakness(self, category: str, name: str) -> float:
        """Return how weak the teacher is for one category; added boxes are spread over the categories unless one is named."""
        share = len(self.categories) if name == "added" else 1
        return self.weak_teacher.get(f"{category}.{name}", self.weak_teacher.get(name, 0.0) / share)

    def stamp(self) -> dict[str, Json]:
        """Return what tells this world from others: the counts, and what differs from the default."""
        usual = World()
        changed = [f.name for f in fields(self) if f.name in COUNTS or getattr(self, f.name) != getattr(usual, f.name)]
        settings = asdict(self)
        told = {name: settings[name] for name in changed}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in told.items()} | {"revision": REVISION}


def _among(names: Iterable[str], known: Collection[str], what: str) -> None:
    """Refuse a name that there is not.

    Raises:
        InputError: One is not known.
    """
    for name in names:
        if name not in known:
            raise InputError(f"{what}: there is no {name!r}; there are {', '.join(known)}")
