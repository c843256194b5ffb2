"""Made-up cases for the verdict model: what Stage 1 might say of an image whose truth we drew, and what OCR might read.

The noise model. Logits are normal; a label's score is their sigmoid; the detector shows boxes from 0.3 on.

    the thing is                classifier      detector        boxes drawn
    there                       N(2.2, 1.4)     N(1.4, 1.0)     95 %
    a look-alike                N(-1.6, 1.1)    N(-2.0, 1.0)    60 %
    not there                   N(-4.5, 1.2)    N(-0.6, 0.3)    1 %

and every case shifts all its logits by N(0, 0.3), as no two models are calibrated alike. Words against the policy
decide before things do, as the prompt says; of two things the first label does. Text that OCR lost decides nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tilth.runtime.stages.stage1 import Found, Screen
from tilth.runtime.stages.template import SAFE
from tilth.starter.verdict.injections import inject
from tilth.starter.verdict.policies import Rules
from tilth.starter.verdict.topics import OTHER, TOPICS, say
from tilth.starter.world.scene import UNSAFE_KINDS
from tilth.starter.world.texts import draw_text

TEXT_AREA = "text_area"  # of the starter world's policies: a board with writing
WRITTEN = ("gambling_ad", "illicit_sale", "threat")
LABELS = ("safe", *UNSAFE_KINDS, *WRITTEN)

CLASSIFIER = {"there": (2.2, 1.4), "alike": (-1.6, 1.1), "absent": (-4.5, 1.2)}
DETECTOR = {"there": (1.4, 1.0, 0.95), "alike": (-2.0, 1.0, 0.6), "absent": (-0.6, 0.3, 0.01)}
BOX_THRESHOLD = 0.3
LOOKS_LIKE = {
    "O": "0Q",
    "0": "O",
    "I": "1L",
    "1": "I",
    "L": "I",
    "S": "5",
    "5": "S",
    "B": "8",
    "8": "B",
    "E": "F",
    "D": "O",
    "G": "6C",
    "Z": "2",
    "U": "V",
    "V": "Y",
    "M": "N",
    "N": "M",
    "C": "G",
    "P": "F",
    "W": "VV",
    "T": "7",
    "A": "4",
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One case: Stage 1's output, the words as OCR read them, the right verdict."""

    screen: Screen
    text: str
    verdict: str

    @property
    def doubtful(self) -> bool:
        """Whether the scores alone do not tell: one of a pictured kind lies between 0.1 and 0.8."""
        return any(0.1 <= score <= 0.8 for label, score in self.screen.scores.items() if label != TEXT_AREA)


def draw_case(rng: np.random.Generator, *, held_out: bool = False) -> Case:
    """Draw truth first, then what the models make of it."""
    there = set(rng.choice(UNSAFE_KINDS, int(rng.choice([0, 1, 2], p=[0.55, 0.4, 0.05])), replace=False))
    alike = set(rng.choice(UNSAFE_KINDS, int(rng.choice([0, 1, 2], p=[0.5, 0.4, 0.1])), replace=False)) - there
    written, text = None, ""
    if sign := rng.random() < 0.6:
        written = str(rng.choice(WRITTEN)) if rng.random() < 0.6 else None
        text = misread(draw_text(rng, written, held_out), rng)
    elif rng.random() < 0.05:
        text = "".join(rng.choice(list("ABCDEFGHIJKLMNOPRSTUVWXYZ 0123456789"), int(rng.integers(1, 12)))).strip()
    if rng.random() < 0.03:
        text = ""
    verdict = written if written and text else next((kind for kind in UNSAFE_KINDS if kind in there), "safe")
    states = {kind: "there" if kind in there else "alike" if kind in alike else "absent" for kind in UNSAFE_KINDS}
    return Case(screen=_screen({**states, TEXT_AREA: "there" if sign else "absent"}, rng), text=text, verdict=verdict)


@dataclass(frozen=True, kw_only=True)
class Saying:
    """A case whose verdict a policy decides.

    Args:
        screen: Stage 1's output.
        text: The words as OCR read them.
        topic: What they are about; None where there are no words to judge.
        there: The pictured things that are there, by name.
        injected: Whether some of the words try to talk the judge round.
    """

    screen: Screen
    text: str
    topic: str | None
    there: tuple[str, ...] = ()
    injected: bool = False

    def verdict(self, policy: Rules) -> str:
        """Say what is right under a policy: words decide before things do."""
        said = SAFE if self.topic is None else policy.verdict_on(self.topic)
        return said if said != SAFE else next((name for name in policy.labels if name in self.there), SAFE)


BOARD = Screen(scores={TEXT_AREA: 1.0}, boxes=(Found(category=TEXT_AREA, box_xyxy=(0, 0, 1, 1), score=1.0),))


def draw_saying(
    policy: Rules, focus: Sequence[str], rng: np.random.Generator, *, held_out: bool = False, short: bool = False,
    injected: bool | None = None,
) -> Saying:  # fmt: skip
    """Draw a sign to be judged by a policy.

    Args:
        policy: What Stage 1 looks for, and what signs are mostly about.
        focus: Topics that matter most.
        rng: Decides the draw.
        held_out: Draw from the signs and injections that training never shows.
        short: With nothing to see but a board, or not even that.
        injected: Whether some of the words try to talk the judge round; more than half of the long cases when None.
    """
    chance, topic = rng.random(), OTHER
    if focus and chance < 0.3:
        topic = str(rng.choice(focus))
    elif chance < 0.65:
        topic = str(rng.choice(policy.spoken_of))
    elif chance < 0.85:
        topic = str(rng.choice(list(TOPICS)))
    text = say(topic, rng, held_out=held_out)
    if injected is None:
        injected = bool(rng.random() < (0.2 if short else 0.55))
    if injected:
        noun = str(rng.choice(TOPICS[str(rng.choice(policy.spoken_of))].phrases("nouns", held_out)))
        line = inject(rng, policy.labels, noun, held_out=held_out)
        text = f"{text} {line}" if rng.random() < 0.85 else f"{line} {text}"
    elif not short and rng.random() < 0.1:  # a longer text, of which one part may matter
        more = [say(OTHER, rng, held_out=held_out) for _ in range(int(rng.integers(1, 4)))]
        text = " ".join(str(part) for part in rng.permutation([text, *more]))
    if short and rng.random() < 0.6:
        return Saying(screen=Screen(scores={}), text=text, topic=topic, injected=injected)
    chance, text = rng.random(), misread(text, rng)
    if short or chance < 0.4:
        screen = BOARD if chance < 0.3 and not short else Screen(scores={})
        return Saying(screen=screen, text=text, topic=topic, injected=injected)
    there = tuple(name for name in policy.pictured if rng.random() < 0.25)
    states = {n: "there" if n in there else "alike" if rng.random() < 0.1 else "absent" for n in policy.pictured}
    screen = _screen({**states, TEXT_AREA: "there"}, rng)
    return Saying(screen=screen, text=text, topic=topic, there=there, injected=injected)


def draw_pictured(policy: Rules, rng: np.random.Generator) -> Saying:
    """Draw an image without words that can be read."""
    there = tuple(name for name in policy.pictured if rng.random() < 0.3)
    states = {n: "there" if n in there else "alike" if rng.random() < 0.2 else "absent" for n in policy.pictured}
    return Saying(screen=_screen({**states, TEXT_AREA: "absent"}, rng), text="", topic=None, there=there)


def _screen(states: dict[str, str], rng: np.random.Generator) -> Screen:
    scores: dict[str, float] = {}
    boxes: list[Found] = []
    shift = rng.normal(0, 0.3)
    for label, state in states.items():
        scores[label] = _squash(rng.normal(*CLASSIFIER[state]) + shift)
        mean, spread, drawn = DETECTOR[state]
        score = _squash(rng.normal(mean, spread) + shift)
        if rng.random() < drawn and score >= BOX_THRESHOLD:
            centre, half = rng.uniform(0.2, 0.8, 2), rng.uniform(0.08, 0.4, 2)
            x0, y0, x1, y1 = np.clip([*(centre - half), *(centre + half)], 0, 1)
            boxes.append(Found(category=label, box_xyxy=(float(x0), float(y0), float(x1), float(y1)), score=score))
    return Screen(scores=scores, boxes=tuple(sorted(boxes, key=lambda found: -found.score)))


def _squash(logit: float) -> float:
    return float(1 / (1 + np.exp(-logit)))


def misread(text: str, rng: np.random.Generator) -> str:
    """Spoil words as OCR does: in 35 of 100, characters get lost (3 %) or mistaken (6 %); spaces go; case changes."""
    if rng.random() < 0.35:
        spoilt = [str(rng.choice(list(LOOKS_LIKE.get(c, c)))) if rng.random() < 0.06 else c for c in text]
        text = "".join(c for c in spoilt if c == " " or rng.random() > 0.03)
    if rng.random() < 0.25:
        text = "".join(c for c in text if c != " " or rng.random() < 0.5)
    if rng.random() < 0.05:
        text += " " + str(rng.choice(list("O.-:1IL/")))
    case = rng.random()
    return text.lower() if case < 0.2 else text.title() if case < 0.3 else text
