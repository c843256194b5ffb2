"""Prompts for what a dataset lacks: category by colour, surface and style, the thinnest categories first."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tilth.policy import Category


@dataclass(frozen=True, kw_only=True)
class Request:
    """One image to make: its number decides seed and words, so a request is the same in every run."""

    number: int
    category: str
    prompt: str
    style: str
    seed: int


def shares(wanted: int, have: Mapping[str, int], categories: Sequence[str]) -> dict[str, int]:
    """Share `wanted` images out so that the thinnest categories are filled up first.

    >>> shares(10, {"knife": 8, "pill": 2}, ["knife", "pill"])
    {'knife': 2, 'pill': 8}
    """
    given: Counter[str] = Counter(dict.fromkeys(categories, 0))
    for _ in range(wanted):
        thinnest = min(categories, key=lambda c: (have.get(c, 0) + given[c], categories.index(c)))
        given[thinnest] += 1
    return dict(given)


def requests(
    counts: Mapping[str, int], categories: Mapping[str, Category], *, template: str, fillings: Mapping[str, Sequence[str]],
    styles: Sequence[str], seed: int,
) -> Iterator[Request]:
    """Yield requests, categories in turn.

    Args:
        counts: Images a category.
        categories: The policy's categories by name; the first prompt of each names the thing.
        template: Words with `{thing}`, `{style}` and the names of `fillings` in braces.
        fillings: Choices for each name in the template.
        styles: Styles to draw from.
        seed: Of all choices.
    """  # fmt: skip
    queue = [name for turn in range(max(counts.values(), default=0)) for name in counts if turn < counts[name]]
    for number, name in enumerate(queue):
        rng = np.random.default_rng((seed, number))
        chosen = {key: str(rng.choice(list(values))) for key, values in sorted(fillings.items())}
        style = str(rng.choice(list(styles))) if styles else ""
        prompt = template.format(thing=categories[name].prompts[0], style=style, **chosen)
        yield Request(number=number, category=name, prompt=_articles(prompt), style=style, seed=int(rng.integers(2**31)))


def _articles(text: str) -> str:
    """Write `an` before a vowel.

    >>> _articles("a orange knife")
    'an orange knife'
    """
    parts = text.split(" ")
    return " ".join(
        "an" if word == "a" and after[:1] in "aeiou" and after else word
        for word, after in zip(parts, [*parts[1:], ""], strict=True)
    )
