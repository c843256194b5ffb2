"""Words for what a dataset lacks: category by style, the thinnest cells first, in templates or in a user's own prompts."""

import heapq
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tilth.engine.steps import group
from tilth.policy import Category

Cell = tuple[str, str]
"""Category and style."""

# What templates are filled with unless the recipe says otherwise: words that every text-to-image model knows.
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink")
SURFACES = ("on a wooden table", "on green grass", "against a brick wall", "on beach sand", "on white tiles")


@group
class Words:
    """How prompts are made.

    Args:
        template: Prompt with `{thing}`, `{style}` and names of `fillings` in braces.
        inpaint_template: The same for `inpaint`, where the image around the hole says the rest.
        fillings: Choices for the names in the templates.
        prompts: Category -> whole prompts to use instead of the templates.
    """

    template: str = "a {color} {thing} {surface}, {style} style"
    inpaint_template: str = "a {color} {thing}, {style} style"
    fillings: dict[str, tuple[str, ...]] = field(default_factory=lambda: {"color": COLORS, "surface": SURFACES})
    prompts: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that every name in a template is filled."""
        filled = {"thing", "style"} | {name for name, choices in self.fillings.items() if choices}
        for template in (self.template, self.inpaint_template):
            names = {name for _, name, _, _ in string.Formatter().parse(template) if name}
            if missing := sorted(names - filled):
                raise ValueError(
                    f"nothing fills {', '.join('{' + m + '}' for m in missing)} of the template; add fillings"
                )

    def write(self, category: Category, style: str, rng: np.random.Generator, *, inpaint: bool = False) -> str:
        """Write a prompt; the first prompt of the category names the thing."""
        if own := self.prompts.get(category.name):
            return str(rng.choice(list(own)))
        chosen = {key: str(rng.choice(list(values))) for key, values in sorted(self.fillings.items())}
        template = self.inpaint_template if inpaint else self.template
        return with_articles(template.format(thing=category.prompts[0], style=style, **chosen))


@dataclass(frozen=True, kw_only=True)
class Request:
    """One image to make; `seed` decides its noise, so the same request gives the same image in every run."""

    number: int
    category: str
    style: str
    method: str
    prompt: str
    seed: int
    parent: str = ""
    hole: tuple[float, float, float, float] | None = None


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
