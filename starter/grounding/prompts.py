"""Draw prompts for grounding: kinds and coloured kinds, by any of their names, present and absent, in any order."""

from collections.abc import Sequence

import numpy as np

from tilth.starter.grounding.tokenizer import MAX_TOKENS, NAMES
from tilth.starter.world.scene import Thing
from tilth.starter.world.sets import COLOR_NAMES, KIND_NAMES

Phrase = tuple[str, str]  # colour ("" for any) and kind

_TOKENS_BESIDES = 2  # [CLS] and [SEP]; each phrase adds its words and a full stop


def fits(phrase: Phrase, thing: Thing) -> bool:
    """Say whether a phrase is true of a thing."""
    color, kind = phrase
    return kind == thing.kind and color in ("", thing.color)


def draw_phrases(things: Sequence[Thing], rng: np.random.Generator) -> list[Phrase]:
    """Draw what to ask of a scene; some prompts ask for nothing that is there.

    Prompts with every kind are common, since that is how a policy asks; coloured ones come with their near misses.
    """
    present = [thing.kind for thing in things]
    absent = [kind for kind in KIND_NAMES if kind not in present]
    style = rng.random()
    if style < 0.4:
        phrases = [("", kind) for kind in KIND_NAMES]
    elif style < 0.65:
        there = [] if rng.random() < 0.15 else [("", kind) for kind in present]
        phrases = there + [("", str(kind)) for kind in rng.choice(absent, rng.integers(1, 7), replace=False)]
    else:
        phrases = [(thing.color, thing.kind) for thing in things]
        misses = [(color, t.kind) for t in things for color in COLOR_NAMES if color != t.color]
        misses += [(str(rng.choice(COLOR_NAMES)), kind) for kind in absent]
        misses += [("", kind) for kind in [*present, *absent[:4]]]
        phrases += [
            misses[i] for i in rng.choice(len(misses), min(len(misses), int(rng.integers(2, 7))), replace=False)
        ]
    rng.shuffle(phrases)
    return list(dict.fromkeys(phrases))


def word_phrases(phrases: Sequence[Phrase], rng: np.random.Generator) -> list[tuple[str, Phrase]]:
    """Say each phrase by its usual name, by another one, or by both as two phrases; cut where the tokens end."""
    worded: list[tuple[str, Phrase]] = []
    left = MAX_TOKENS - _TOKENS_BESIDES
    for color, kind in phrases:
        chance = rng.random()
        others = NAMES[kind][1:]
        names = [kind]
        if others and chance > 0.55:
            other = str(rng.choice(others))
            names = [kind, other] if chance > 0.9 else [other]
        for name in names:
            text = f"{color} {name}".strip()
            left -= len(text.split()) + 1
            if left >= 0:
                worded.append((text, (color, kind)))
    return worded


def join(texts: Sequence[str]) -> str:
    """Write phrases as GroundingDINO reads them.

    >>> join(["red knife", "cup"])
    'red knife . cup .'
    """
    return " . ".join(texts) + " ."
