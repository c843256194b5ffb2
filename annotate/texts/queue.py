"""Which texts a person should read first: those with the most wrong labels to be expected for each second of reading.

A label is wrong with the chance that its score tells: a category that is claimed by one minus its score, one that is not by its score. So
what lies near the threshold comes first, and a long text has to be worth more than a short one. Where two judges spoke, their mean is taken
and what they disagree on counts beside it; what a judge was unsure about in all counts where that is more.

Reading: https://doi.org/10.1016/j.jml.2019.104047 (238 words of English a minute, read silently)
"""

import math
from collections.abc import Mapping

from tilth.annotate.review.queue import Entry, tie
from tilth.claims import PEOPLE, Json
from tilth.samples import Sample

CHARACTERS_PER_S = 238 / 60 * 6  # an English word and the space behind it are about six
DECIDING_S = 2.4  # to choose one of five answers; see the actions of `review/effort.py`
SCORES, DOUBT = ".scores", ".doubt"  # columns of a judge: chances by category, and how unsure it was in all


def reading_s(sample: Sample) -> float:
    """Return how long a text takes to be read, in seconds.

    >>> round(reading_s(Sample(id="a", media="text", size_wh=(238, 1))), 1)
    10.0
    """
    return sample.size_wh[0] / CHARACTERS_PER_S


def judged(sample: Sample) -> dict[str, list[float]]:
    """Return what judges said of each category, in [0, 1], those alone that people have not decided."""
    settled = {name for name, kind in sample.truth.looked.items() if kind in PEOPLE}
    found: dict[str, list[float]] = {}
    for column in sorted(sample.columns):
        scores = sample.columns[column]
        if column.endswith(SCORES) and isinstance(scores, Mapping):
            for name, score in scores.items():
                if name not in settled and isinstance(score, int | float):
                    found.setdefault(name, []).append(min(1.0, max(0.0, float(score))))
    return found


def weigh(sample: Sample, seed: int, worth: Mapping[str, float]) -> Entry:
    """Say how urgent a text is, and why.

    Args:
        sample: The text; its words need not be read.
        seed: Of ties.
        worth: Of a label of each category, in [0, 1]; 1 where it does not say.
    """
    truth, said = sample.truth, judged(sample)
    means = {name: sum(scores) / len(scores) for name, scores in said.items()}
    wrong = {
        name: worth.get(name, 1.0) * (1 - mean if name in truth.categories else mean) for name, mean in means.items()
    }
    unsure = [_number(value) for name, value in sample.columns.items() if name.endswith(DOUBT)]
    settled = not said and sample.labelled_by_people
    reasons = {
        "doubt": max(
            1 - math.prod(1 - chance for chance in wrong.values()), 0.0 if settled else max(unsure, default=0)
        ),
        "disagreement": max((max(scores) - min(scores) for scores in said.values()), default=0.0),
    }
    chance = 1 - math.prod(1 - reason for reason in reasons.values())
    group = sample.columns.get("dedup.group")
    return Entry(
        priority=chance / (reading_s(sample) + DECIDING_S),
        tie=tie(seed, sample.id),
        id=sample.id,
        why=max(reasons, key=lambda name: reasons[name]),
        category=max(means, key=lambda name: means[name], default=""),
        group=group if isinstance(group, str) else "",
    )


def _number(value: Json) -> float:
    return min(1.0, max(0.0, float(value))) if isinstance(value, int | float) else 0.0
