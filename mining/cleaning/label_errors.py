"""Which labels are probably wrong: those that a model trained on all the others doubts.

Every image is predicted by a classifier that has not seen it nor a copy of it (cross-validation over groups of
near-duplicates): logistic regression on the vectors of the retrieval model and the similarity to the category's prompts, one
category at a time, as an image can show several. A label is a candidate when the prediction for the opposite reaches what is
usual among images that truly are the opposite; cleanlab, by the authors of the paper, says which these are.

Paper: https://arxiv.org/abs/1911.00068 (confident learning; the thresholds are its equation 2)
Differs: one category at a time.
"""

from collections import Counter
from collections.abc import Iterator
from typing import cast

import numpy as np
import numpy.typing as npt

from tilth.claims import Json
from tilth.data.where import both, one_of
from tilth.encoders.families import Encoder, Texts, max_similarity, open_encoder
from tilth.engine.apply import Apply
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.extras import optional
from tilth.mining.search.rank import phrase
from tilth.mining.vectors.alike import sample_vectors
from tilth.mining.vectors.store import Vectors
from tilth.samples import Result

REVIEWED = ("reviewed", "confirmed_empty")
LABELLED = (*REVIEWED, "auto")

# Chosen on drawn images with labels swapped: weaker regularisation finds more of them and doubts many more right ones, and the
# similarity to the prompt, so weighted, spares right ones.
REGULARISATION = 0.001  # scikit-learn's C
PROMPT_WEIGHT = 10.0

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@step
class LabelErrors:
    """Name the images whose labels are probably wrong, for a second look: of reviewed ones, or of automatic ones as well.

    Leaves the columns `label_errors.category`, `label_errors.says` (`wrong`: the category is probably not there; `missing`: it
    probably is) and `label_errors.score`, the probability that the label is right. Nothing is dropped or changed.

    Args:
        model: Whose vectors are learned from.
        folds: Parts of the cross-validation.
        min_images: A category is judged when so many images show it, and so many do not; and when each of the two kinds
            comes from at least `folds` groups of near-duplicates.
        states: Whose labels are judged, and learned from; with `auto` those that only models gave. Where a detector can be trained
            on these, `relabel` finds far more of what is wrong with them (docs/rounds.md).
    """

    model: str = "starter:retrieval"
    folds: int = 5
    min_images: int = 20
    states: tuple[str, ...] = REVIEWED

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.folds < 2:
            raise ValueError(f"folds must be at least 2, got {self.folds}")
        if self.min_images < self.folds:
            raise ValueError(f"min_images must be at least folds ({self.folds}), got {self.min_images}")
        if not self.states or not {*self.states} <= {*LABELLED}:
            raise ValueError(f"states must be some of {', '.join(LABELLED)}, got {', '.join(self.states) or 'none'}")

    def models(self) -> tuple[str, ...]:
        """Name the model."""
        return (self.model,)

    def run(self, work: Work) -> Facts:
        """Cross-validate, compare and write down.

        Raises:
            InputError: There are enough images, but they are copies of too few pictures to judge any category.
        """
        ids, groups, shown, looked = [], [], [], []
        judged = both(one_of("state", self.states), "split != 'test'")
        for id_, group, *lists in work.dataset.cells("id", "dedup.group", "categories", "looked", where=judged):
            ids.append(str(id_))
            groups.append(str(group or id_))
            shown.append(set(cast("list[str]", lists[0])))
            looked.append(set(cast("list[str]", lists[1])))
        found: dict[str, tuple[float, str, str]] = {}
        rates: dict[str, Json] = {}
        skipped: dict[str, Json] = {}
        copies: dict[str, Json] = {}
        unasked: dict[str, Json] = {}
        encoder = open_encoder(self.model, work.device)
        vectors = _vectors(work, ids, encoder) if ids else np.empty((0, encoder.queries, encoder.width), np.float16)
        for category in work.policy.names:
            told = np.array([category in names for names in looked], bool)
            unasked[category] = int((~told).sum())
            asked, kinds = np.flatnonzero(told), [groups[i] for i in np.flatnonzero(told)]
            labels = np.array([category in shown[i] for i in asked], bool)
            if min(labels.sum(), (~labels).sum()) < self.min_images:
                skipped[category] = int(labels.sum())
                continue
            if (apart := fewest_groups(labels, kinds)) < self.folds:
                copies[category] = apart
                continue
            prompts = list(map(phrase, work.policy[category].prompts)) if encoder.reads else []
            texts = encoder.texts(prompts) if prompts else None
            chance = predict_unseen(features(vectors[asked], texts), labels, kinds, self.folds, work.seed)
            wrong = doubtful(chance, labels)
            rates[category] = round(float(wrong.mean()), 4)
            for place in np.flatnonzero(wrong):
                score = float(chance[place] if labels[place] else 1 - chance[place])
                says = "wrong" if labels[place] else "missing"
                id_ = ids[asked[place]]
                found[id_] = min(found.get(id_, (2.0, "", "")), (score, category, says))
        if copies and not rates:
            raise InputError(
                f"{work.name}: the {len(ids)} images that are {' or '.join(self.states)} are copies of too few pictures: "
                f"{', '.join(f'{name} of {n}' for name, n in copies.items())}, and folds is {self.folds}; "
                "review more images, or set folds lower"
            )
        Apply.to(work, dict(_results(found)))
        return {
            "judged": len(ids),
            "candidates": len(found),
            "by_category": dict(Counter(category for _, category, _ in found.values())),
            "share_doubted": rates,
            "too_few_images": skipped,
            "too_few_groups": copies,
            "nobody_looked": unasked,
        }


def _results(found: dict[str, tuple[float, str, str]]) -> Iterator[tuple[str, Result]]:
    for id_, (score, category, says) in found.items():
        names = ("category", "says", "score")
        yield id_, Result(columns=dict(zip([f"label_errors.{n}" for n in names], (category, says, score), strict=True)))


def _vectors(work: Work, ids: list[str], encoder: Encoder) -> Vectors:
    """Return the vectors of the samples, `(n, q, d)`; all in memory, as people review few: a million BLIP-2's take 16 GB."""
    store = sample_vectors(work, ids, encoder)
    rows = {key: row for row, (key, _) in enumerate(store.items())}
    return store.take(np.array([rows[id_] for id_ in ids]))


def features(vectors: Vectors, texts: Texts | None) -> Floats:
    """Return what is learned from, standardised: whole vectors, and the similarity to the nearest prompt, `(n, q * d + 1)`."""
    parts = [_standard(vectors.reshape(len(vectors), -1).astype(np.float32))]
    if texts is not None:
        parts.append(PROMPT_WEIGHT * _standard(max_similarity(vectors, texts).max(1, keepdims=True)))
    return np.concatenate(parts, 1)


def _standard(values: Floats) -> Floats:
    return np.asarray((values - values.mean(0)) / np.maximum(values.std(0), 1e-6), np.float32)


def fewest_groups(labels: Bools, groups: list[str]) -> int:
    """Count the groups that show a category and those that do not, and return the smaller number.

    >>> fewest_groups(np.array([1, 1, 0, 0], bool), ["burst", "burst", "a", "b"])
    1
    """
    return min(
        len({group for group, label in zip(groups, labels, strict=True) if label == side}) for side in (True, False)
    )


def predict_unseen(
    features: Floats, labels: Bools, groups: list[str], folds: int, seed: int
) -> npt.NDArray[np.float64]:
    """Return the probability of a category for each image, by a model that has seen none of its group, `(n,)`.

    Where a part of the division leaves only images of one kind to learn from, its labels are taken at their word.

    Args:
        features: `(n, d)`.
        labels: Whether the category is there, `(n,)`.
        groups: Of near-duplicates, `(n,)`; at least `folds` that show the category, and as many that do not.
        folds: How many models.
        seed: Of the division.
    """
    with optional():
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedGroupKFold
    model = LogisticRegression(C=REGULARISATION, class_weight="balanced", max_iter=500)
    division = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    chance = labels.astype(np.float64)
    for known, unseen in division.split(features, labels, groups):
        if labels[known].any() and not labels[known].all():
            chance[unseen] = model.fit(features[known], labels[known]).predict_proba(features[unseen])[:, 1]
    return chance


def doubtful(chance: npt.NDArray[np.float64], labels: Bools) -> Bools:
    """Tell which labels are candidates, `(n,)`.

    An image counts as the opposite of its label when its probability of the opposite reaches the mean of that probability
    among images labelled so, and is the greater of the two. With cleanlab's other rules (`prune_by_noise_rate` is its default) ten of a
    hundred swapped labels more are found, and candidates are right less often: 30 % of them in place of 37 % (`benchmarks/doubts.py`).

    >>> doubtful(np.array([0.9, 0.8, 0.1, 0.2, 0.1, 0.9]), np.array([1, 1, 1, 0, 0, 0], bool)).tolist()
    [False, False, True, False, False, True]
    """
    with optional():
        from cleanlab.filter import find_label_issues
    both = np.column_stack([1 - chance, chance])
    found = find_label_issues(labels.astype(int), both, filter_by="confident_learning", n_jobs=1)
    return np.asarray(found, bool)
