"""Training examples: small squares on disk, with what the truth says of each. No image is held in memory."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np
import numpy.typing as npt

from tilth.claims import PEOPLE, Claim, State
from tilth.data.where import both, one_of
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.samples import Sample
from tilth.train.learn.squares import Squares

VAL_SHARE = 0.15
DOUBT = 0.1  # a chance farther than this from what is said leaves it in doubt
Box = tuple[float, float, float, float]
KNOWN = (State.REVIEWED, State.CONFIRMED_EMPTY, State.AUTO)


@dataclass(frozen=True, kw_only=True)
class Example:
    """What is known of one image.

    Args:
        id: Of the sample.
        labels: Category of each box or of the image, as an index into the labels that are trained.
        boxes: `(x0, y0, x1, y1)` in parts of the image, for labels that have one; None for others.
        looked: Kind of source that looked for each of the labels that are trained; empty where nobody did.
        reviewed: Whether a person said so.
        made: Whether the image was generated.
        val: Whether it is held back for choosing and calibrating.
        sure: Chance of what is said about each of the labels to be right, where a model was asked; empty where nobody can tell.
        likely: Chance that the image shows each of the labels, by what models say; nan where they do not. Empty where no model was asked.
        maybe: What nobody claims and may be there all the same: label, box and chance.
    """

    id: str
    labels: tuple[int, ...]
    boxes: tuple[Box | None, ...]
    looked: tuple[str, ...]
    reviewed: bool
    made: bool
    val: bool
    sure: tuple[float, ...] = ()
    likely: tuple[float, ...] = ()
    maybe: tuple[tuple[int, Box, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Examples:
    """What is known of images, and where each lies among the squares of the dataset."""

    squares: Squares
    places: npt.NDArray[np.int64]
    rows: list[Example]

    def images(self, chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Read some images, `(n, side, side, 3)`."""
        return self.squares.read(self.places[chosen])

    def indices(self, *, val: bool) -> npt.NDArray[np.int64]:
        """Return the places of the validation or the training images; of those of which nothing is known, none."""
        return np.array([i for i, row in enumerate(self.rows) if row.val == val and any(row.looked)], np.int64)


def present(rows: Sequence[Example], n_labels: int) -> npt.NDArray[np.float32]:
    """Return which labels each image shows, `(n, n_labels)` of 0 and 1."""
    table = np.zeros((len(rows), n_labels), np.float32)
    for i, row in enumerate(rows):
        table[i, list(row.labels)] = 1
    return table


def known(rows: Sequence[Example], auto_weight: float = 1.0) -> npt.NDArray[np.float32]:
    """Return how much is known of each label of each image, `(n, n_labels)`: 0 where nobody looked, else 1.

    What a model says about an image that people have looked at for other things counts `auto_weight`; where the chance of its label to be
    right is known, as far as that is above even.
    """
    table = np.ones((len(rows), len(rows[0].looked) if rows else 0), np.float32)
    for i, row in enumerate(rows):
        for k, kind in enumerate(row.looked):
            table[i, k] = 0 if not kind else auto_weight if row.reviewed and kind not in PEOPLE else 1
            if row.sure and kind and kind not in PEOPLE:
                table[i, k] = max(0.0, 2 * row.sure[k] - 1)
    return table


def likely(
    rows: Sequence[Example], auto_weight: float = 1.0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the chance that each image shows each label, and how much that counts, both `(n, n_labels)`.

    What people say is sure. Where only models looked, the chance is what `relabel` made of it, also where it dares say nothing; without it,
    what they say counts as `known` has it.
    """
    truth, counts = present(rows, len(rows[0].looked) if rows else 0), known(rows, auto_weight)
    for i, row in enumerate(rows):
        for k, chance in enumerate(row.likely):
            if row.looked[k] not in PEOPLE and not np.isnan(chance):
                truth[i, k], counts[i, k] = chance, 1
    return truth, counts


def drawn(row: Example, rng: np.random.Generator) -> Example:
    """Return what an image shows this time: what is in doubt is there as often as it is likely.

    So a loss that knows only yes and no, such as that of boxes, learns a chance. What people decided stays, and what nobody weighed.
    """
    weighed = {k for k, chance in enumerate(row.likely) if not np.isnan(chance) and row.looked[k] not in PEOPLE}
    shown = [
        (label, box)
        for label, box in zip(row.labels, row.boxes, strict=True)
        if label not in weighed or rng.random() < row.likely[label]
    ]
    shown += [(label, box) for label, box, chance in row.maybe if label in weighed and rng.random() < chance]
    return replace(
        row,
        labels=tuple(label for label, _ in shown),
        boxes=tuple(box for _, box in shown),
        looked=tuple("model" if k in weighed else by for k, by in enumerate(row.looked)),
        sure=tuple(1.0 if k in weighed else sure for k, sure in enumerate(row.sure)),
    )


def doubtful(chance: float, said: bool) -> bool:
    """Tell whether what is said of a category, present or not, is too far from its chance to be present to judge a model by.

    >>> doubtful(0.95, True), doubtful(0.95, False), doubtful(0.5, True), doubtful(0.02, False)
    (False, True, True, False)
    """
    return abs(chance - said) > DOUBT


def held_back(sample: Sample) -> bool:
    """Tell whether a sample is for validation; relatives share the answer, and an explicit split decides first."""
    if sample.split:
        return sample.split == "val"
    parents = sample.origin.get("parents")
    family = parents[0] if isinstance(parents, list | tuple) and parents else None
    group = str(sample.columns.get("dedup.group") or family or ("" if sample.made else sample.id))
    if not group:
        return False  # generated from words alone: it has no relative that could be held back
    return int(sha256(group.encode()).hexdigest()[:8], 16) / 16**8 < VAL_SHARE


def usable(states: Sequence[State] = KNOWN) -> str:
    """Return the condition on samples that may be trained on; sealed ones never."""
    return both("split != 'test'", one_of("state", states))


def gather(
    work: Work, labels: Sequence[str], side: int, *, states: Sequence[State], max_made_ratio: float, boxes_only: bool
) -> Examples:
    """Read what is known of the usable samples of the dataset, and decode those that no step has decoded before.

    Generated images beyond `max_made_ratio` times the real ones are left out, in the order of their ids. They are never
    used for validation, nor for training when what they were made from is held back.

    Raises:
        InputError: Nothing usable is there, or no example shows any of the labels.
    """
    real = work.dataset.count(both(usable(states), "not made"))
    made = work.dataset.samples(both(usable(states), "made"), images=False, keep=lambda s: not held_back(s))
    chosen = set(sorted(sample.id for sample in made)[: int(real * max_made_ratio)])
    wanted = work.dataset.samples(usable(states), images=False, keep=lambda s: not s.made or s.id in chosen)
    rows = [row for sample in wanted if (row := example(sample, labels, boxes_only=boxes_only)) is not None]
    if not rows:
        raise InputError(f"{work.name}: no labelled image to train on; import, ground or review some first")
    if not any(row.labels for row in rows if not row.val):
        raise InputError(f"{work.name}: no training image shows any of {', '.join(labels)}; label some first")
    squares = Squares(work.dataset.root / "squares", side)
    missing = squares.missing([row.id for row in rows])
    with work.events.progress(f"{work.name}: read", len(missing)) as advance:
        squares.add(work.dataset.samples(ids=missing), advance)
    return Examples(squares=squares, places=np.array([squares.places[row.id] for row in rows], np.int64), rows=rows)


def example(sample: Sample, labels: Sequence[str], *, boxes_only: bool = False) -> Example | None:
    """Return what is known of a sample; None when it shows something and a box is needed that nobody has drawn."""
    truth = sample.truth
    kept = [c for c in truth.labels if c.category in labels]
    if boxes_only and any(c.box_xyxy is None for c in kept):
        return None  # nobody knows where: neither an example nor a counter-example
    width, height = sample.size_wh
    scale = np.array([width, height, width, height])

    def part(claim: Claim) -> Box | None:
        return tuple(np.clip(np.array(claim.box_xyxy) / scale, 0, 1).tolist()) if claim.box_xyxy else None

    chances, presence = sample.chances, sample.presence
    return Example(
        id=sample.id,
        labels=tuple(labels.index(str(c.category)) for c in kept),
        boxes=tuple(map(part, kept)),
        looked=tuple(truth.looked.get(name, "") for name in labels),
        reviewed=truth.state is not State.AUTO,
        made=sample.made,
        val=held_back(sample) and not sample.made,
        sure=tuple(chances.get(name, 1.0) for name in labels) if chances else (),
        likely=tuple(presence.get(name, float("nan")) for name in labels) if presence else (),
        maybe=tuple(
            (labels.index(c.category), box, c.score) for c in sample.doubts if c.category in labels and (box := part(c))
        ),
    )
