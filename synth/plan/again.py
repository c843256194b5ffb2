"""What was asked for before and how much of it was accepted: where to ask again, and in which words."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache

from tilth.claims import Json
from tilth.samples import RANK, Sample
from tilth.synth.plan.prompts import Cell, Liked

JUDGED = "adherence.asked"  # column of an image that was judged; one that was accepted has a rank
STAYS = 0.25  # share of its even chance that a word keeps, however few images with it were accepted
TRIES = 8  # prompts that are looked at before one that was never accepted is asked for once more


class Tried:
    """Generated images that were judged, dropped ones too.

    Args:
        samples: All that were generated.
        again: Step whose rejected images are to be made up for.
    """

    def __init__(self, samples: Iterable[Sample], again: str = "") -> None:
        # by category: prompt and whether it was accepted
        self._prompts: dict[str, Counter[tuple[str, bool]]] = defaultdict(Counter)
        self._lost: Counter[Cell] = Counter()
        own = Counter[bool]()
        for sample in samples:
            own[JUDGED in sample.columns] += _text(sample.origin, "step") == again
            if JUDGED in sample.columns:
                category, accepted = _text(sample.origin, "category"), RANK in sample.columns
                prompt = _text(sample.origin, "prompt")
                if prompt and not sample.origin.get("instead"):  # a look-alike tells nothing about words for the thing
                    self._prompts[category][prompt, accepted] += 1
                if not accepted and _text(sample.origin, "step") == again:
                    self._lost[category, _text(sample.origin, "style")] += 1
        self.unjudged = 0 if own[True] else own[False]  # images of the step, where none of them was judged

    def lacking(self, room: int, cells: Sequence[Cell]) -> Counter[Cell]:
        """Return how many of each category and style were rejected, at most `room` in all, taking turns."""
        left, given = Counter({cell: self._lost[cell] for cell in cells}), Counter[Cell]()
        while room > 0 and left.total():
            for cell in cells:
                if room > 0 and left[cell]:
                    left[cell] -= 1
                    given[cell] += 1
                    room -= 1
        return given

    def liked(self, category: str) -> Liked:
        """Return the chances of words for a category: the larger, the more images were accepted whose prompt had them.

        The square of the share of them, as it is after one more that was accepted and one that was not.
        """
        if not self._prompts.get(category):
            return lambda words: None
        return lambda words: self._chances(category, tuple(words))

    @cache  # noqa: B019 - as long as a plan is made
    def _chances(self, category: str, words: tuple[str, ...]) -> list[float]:
        prompts, shares = self._prompts[category], []
        for word in words:
            found = [(accepted, n) for (prompt, accepted), n in prompts.items() if word in prompt]
            shares.append(((sum(n for good, n in found if good) + 1) / (sum(n for _, n in found) + 2)) ** 2)
        return [STAYS / len(words) + (1 - STAYS) * share / sum(shares) for share in shares]

    def new(self, category: str, write: Callable[[], tuple[str, bool]]) -> tuple[str, bool]:
        """Write a prompt that was not rejected whenever it was asked for, if one is found in a few tries."""
        prompts: Counter[tuple[str, bool]] = self._prompts.get(category, Counter())
        for _ in range(TRIES):
            prompt, cut = write()
            if prompts[prompt, True] or not prompts[prompt, False]:
                break
        return prompt, cut


def _text(told: Mapping[str, Json], name: str) -> str:
    return str(told.get(name) or "")
