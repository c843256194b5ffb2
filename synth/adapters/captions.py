"""Words for the images that an adapter learns from: what is in them, and the word for what is learned."""

from collections.abc import Callable, Sequence

from tilth.policy import Policy
from tilth.samples import Sample
from tilth.synth.adapters.settings import Captions
from tilth.synth.plan.prompts import Words, with_articles

VARIANTS = 4  # of a caption, where the policy has several words for a thing
Fits = Callable[[str], bool]
"""Whether a model reads a text to its end."""


def contents(sample: Sample, policy: Policy) -> list[str]:
    """Say what is in an image by its labels, in as many ways as the policy has words for it; one empty text where nobody knows.

    Args:
        sample: The image.
        policy: Whose prompts and synonyms are used.
    """
    shown = [category for category in policy.pictured if category.name in sample.truth.categories]
    names = [Words().names(category) for category in shown]
    count = min(VARIANTS, max(map(len, names), default=1))
    return [joined([each[number % len(each)] for each in names]) for number in range(count)]


def joined(things: Sequence[str]) -> str:
    """Join things.

    >>> joined(["knife", "orange", "dice"]), joined(["knife"]), joined([])
    ('a knife, an orange and a dice', 'a knife', '')
    """
    each = [with_articles(f"a {thing}") for thing in things]
    return " and ".join([", ".join(each[:-1]), each[-1]]) if len(each) > 1 else "".join(each)


def written(content: str, word: str, captions: Captions, fits: Fits) -> str:
    """Write a caption; its content loses words at the end until the model reads all of it.

    Args:
        content: What is in the image; empty when nobody knows.
        word: For what is learned.
        captions: The templates.
        fits: Whether the model reads a text to its end.
    """
    words = content.split()
    while words:
        text = with_articles(captions.template.format(style=word, content=" ".join(words).rstrip(",")))
        if fits(text):
            return text
        words.pop()
    return with_articles(captions.bare.format(style=word))
