"""Words for what a dataset lacks: category by style, the thinnest cells first, by a small grammar or in a user's own prompts."""

import heapq
import string
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tilth.engine.steps import group
from tilth.geometry import Box
from tilth.policy import Category, fold

Cell = tuple[str, str]
"""Category and style."""

# What prompts are made of unless the recipe says otherwise: things are things, wherever they lie.
TEMPLATE = "a {style} of a {attribute} {thing} {place}, {camera}, {light}"
INPAINT_TEMPLATE = "a {style} of a {attribute} {thing}, {light}"
FILLINGS = {
    "attribute": ("new", "old", "small", "large", "plain", "shiny", "worn", "dirty"),
    "place": (
        "on a table", "on the ground", "on a shelf", "in a bag", "on a kitchen counter", "on a carpet", "beside a window", "on a car seat",
        "in a drawer", "on grass",
    ),
    "camera": ("close-up", "seen from above", "from the side", "at a distance", "partly hidden", "out of focus"),
    "light": ("in daylight", "in dim light", "under a lamp", "at dusk", "with hard shadows", "with flash"),
}  # fmt: skip
OPTIONAL = ("light", "camera", "place", "attribute")

Fits = Callable[[str], bool]
"""Whether a model reads a prompt to its end."""

Liked = Callable[[Sequence[str]], Sequence[float] | None]
"""The chances of words to be chosen; None where all have the same."""


@group
class Words:
    """How prompts are made.

    Args:
        template: Prompt with `{thing}`, `{style}` and names of `fillings` in braces.
        inpaint_template: The same for `inpaint`, `insert` and `replace`, where the image around the hole says the rest.
        fillings: Choices for the names in the templates.
        optional: Names that are left out, the first one first, as long as the model would not read a prompt to its end.
        things: Category -> what it is called, instead of its prompts and synonyms in the policy.
        prompts: Category -> whole prompts to use instead of the templates.
        negatives: Category or style -> what to steer away from, beside the drawing's negative prompt.
        look_alikes: Category -> what `insert` and `replace` draw in its place, instead of its counter-prompts in the policy.
    """

    template: str = TEMPLATE
    inpaint_template: str = INPAINT_TEMPLATE
    fillings: dict[str, tuple[str, ...]] = field(default_factory=lambda: dict(FILLINGS))
    optional: tuple[str, ...] = OPTIONAL
    things: dict[str, tuple[str, ...]] = field(default_factory=dict)
    prompts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    negatives: dict[str, str] = field(default_factory=dict)
    look_alikes: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that every name in a template is filled."""
        filled = {"thing", "style"} | {name for name, choices in self.fillings.items() if choices}
        for template in (self.template, self.inpaint_template):
            names = {name for _, name, _, _ in string.Formatter().parse(template) if name}
            if missing := sorted(names - filled):
                raise ValueError(
                    f"nothing fills {', '.join('{' + m + '}' for m in missing)} of the template; add fillings"
                )
        named = (self.things, self.prompts, self.look_alikes)
        if empty := sorted(name for each in named for name, words in each.items() if not words):
            raise ValueError(
                f"things, prompts and look_alikes need at least one for each category named, got none for {', '.join(empty)}"
            )

    @property
    def named(self) -> tuple[str, ...]:
        """The categories that the settings name."""
        return (*self.things, *self.prompts, *self.look_alikes)

    def names(self, category: Category) -> tuple[str, ...]:
        """Return what a category is called in prompts: all its prompts and synonyms, each once.

        >>> Words().names(Category(name="WBC", definition="", prompts=("white cell", "leukocyte"), also=("White_Cell",)))
        ('white cell', 'leukocyte')
        """
        if own := self.things.get(category.name):
            return own
        known: dict[str, str] = {}
        for name in (*category.prompts, *category.also):
            known.setdefault(fold(name), name.replace("_", " "))
        return tuple(known.values())

    def harmless(self, category: Category) -> tuple[str, ...]:
        """Return what looks like a category and is harmless."""
        return self.look_alikes.get(category.name, category.counter_prompts)

    def write(
        self,
        category: Category,
        style: str,
        rng: np.random.Generator,
        *,
        inpaint: bool = False,
        fits: Fits = lambda prompt: True,
        liked: Liked = lambda words: None,
    ) -> tuple[str, bool]:
        """Write a prompt; return it and whether something was left out for it to be read to its end.

        Args:
            category: That is asked for.
            style: To draw in.
            rng: Chooses the words.
            inpaint: The image around a hole says the rest.
            fits: Whether a model reads a prompt to its end.
            liked: With which chances words are chosen.
        """
        if own := self.prompts.get(category.name):
            return _pick(own, rng, liked), False
        chosen, name = self._chosen(category, rng, liked)
        template = self.inpaint_template if inpaint else self.template
        (prompt,), cut = self._filled(template, chosen | {"style": style}, [name], fits)
        return prompt, cut

    def write_pair(
        self,
        category: Category,
        instead: str,
        style: str,
        rng: np.random.Generator,
        *,
        fits: Fits = lambda prompt: True,
        liked: Liked = lambda words: None,
    ) -> tuple[list[str], bool]:
        """Write the prompts of an edited pair, for a hole: of the category, and of a look-alike in the same other words.

        Returns:
            Both prompts, and whether something was left out of both.
        """
        chosen, name = self._chosen(category, rng, liked)
        return self._filled(self.inpaint_template, chosen | {"style": style}, [name, instead], fits)

    def _chosen(self, category: Category, rng: np.random.Generator, liked: Liked) -> tuple[dict[str, str], str]:
        """Choose a filling for each name of the templates, and what the category is called."""
        chosen = {key: _pick(values, rng, liked) for key, values in sorted(self.fillings.items()) if values}
        names = self.names(category)
        return chosen, names[0] if len(names) == 1 else _pick(names, rng, liked)

    def _filled(
        self, template: str, chosen: dict[str, str], things: Sequence[str], fits: Fits
    ) -> tuple[list[str], bool]:
        """Write a prompt for each thing; what one of them has no room for is left out of all."""
        whole = prompts = [with_articles(template.format(**chosen, thing=thing)) for thing in things]
        for name in self.optional:
            if all(map(fits, prompts)):
                break
            chosen = chosen | {name: ""}
            prompts = [with_articles(tidied(template.format(**chosen, thing=thing))) for thing in things]
        return prompts, prompts != whole

    def negative(self, category: str, style: str, always: str) -> str:
        """Return what to steer away from in one image."""
        parts = (always, self.negatives.get(category, ""), self.negatives.get(style, ""))
        return ", ".join(dict.fromkeys(part for part in parts if part))


def _pick(words: Sequence[str], rng: np.random.Generator, liked: Liked) -> str:
    return str(rng.choice(list(words), p=liked(words)))


@dataclass(frozen=True, kw_only=True)
class Request:
    """One image to make; `seed` decides its noise, so the same request gives the same image in every run.

    Args:
        number: Of the image in its plan.
        category: That it is made for.
        style: It is drawn in.
        method: That makes it.
        prompt: What it is drawn from; empty where nothing is drawn.
        seed: Of its noise.
        negative: What to steer away from.
        parent: Id of the image that it starts from.
        hole: Where in the parent's frame something is drawn or pasted, `xyxy` in parts of its sides.
        box_xyxy: Where in the parent, or in the donor, the thing or its look-alike is, in pixels of that image.
        donor: Id of the image that the thing is cut out of.
        pair: Names an edited pair; its two images differ in the prompt alone.
        instead: The look-alike that is drawn in the thing's place; empty for the thing.
    """

    number: int
    category: str
    style: str
    method: str
    prompt: str
    seed: int
    negative: str = ""
    parent: str = ""
    hole: Box | None = None
    box_xyxy: Box | None = None
    donor: str = ""
    pair: str = ""
    instead: str = ""


def shares(wanted: int, have: Mapping[Cell, int], cells: Sequence[Cell]) -> Counter[Cell]:
    """Share `wanted` images out so that the thinnest category is filled first, and in it the thinnest style.

    Labels whose style is unknown, `(category, "")`, count for their category alone.

    >>> have = {("knife", "photo"): 6, ("pill", ""): 2}
    >>> sorted(shares(8, have, [("knife", "photo"), ("knife", "neon"), ("pill", "photo")]).items())
    [(('knife', 'neon'), 2), (('pill', 'photo'), 6)]
    """
    totals: Counter[str] = Counter()
    for (category, _), n in have.items():
        totals[category] += n
    order = {category: n for n, category in enumerate(dict.fromkeys(category for category, _ in cells))}
    categories = [(totals[category], n, category) for category, n in order.items()]
    styles = {
        category: [(have.get(cell, 0), n, cell) for n, cell in enumerate(cells) if cell[0] == category]
        for category in order
    }
    heapq.heapify(categories)
    for heap in styles.values():
        heapq.heapify(heap)
    given: Counter[Cell] = Counter()
    for _ in range(wanted if cells else 0):
        total, n, category = categories[0]
        heapq.heapreplace(categories, (total + 1, n, category))
        count, place, cell = styles[category][0]
        heapq.heapreplace(styles[category], (count + 1, place, cell))
        given[cell] += 1
    return given


def in_turn(counts: Mapping[Cell, int]) -> Iterator[Cell]:
    """Yield each cell as often as its count says, taking turns, so that a run cut short is balanced too.

    >>> list(in_turn({("knife", "photo"): 2, ("pill", "photo"): 1}))
    [('knife', 'photo'), ('pill', 'photo'), ('knife', 'photo')]
    """
    for turn in range(max(counts.values(), default=0)):
        yield from (cell for cell, n in counts.items() if turn < n)


def tidied(text: str) -> str:
    """Close the gaps that are left where something was left out.

    >>> tidied("a photo of a  knife , , at dusk, ")
    'a photo of a knife, at dusk'
    """
    parts = (" ".join(part.split()) for part in text.split(","))
    return ", ".join(part for part in parts if part)


def with_articles(text: str) -> str:
    """Write `an` before a vowel.

    >>> with_articles("a orange knife")
    'an orange knife'
    """
    words = text.split(" ")
    return " ".join(
        "an" if word == "a" and after and after[0] in "aeiou" else word
        for word, after in zip(words, [*words[1:], ""], strict=True)
    )
