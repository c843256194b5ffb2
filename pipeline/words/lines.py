"""A line of the router is learned: logistic regressions over runs of letters and a few numbers, calibrated on cases held out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tilth.errors import InputError
from tilth.extras import optional
from tilth.runtime.stages.route import UNSAFE, Costs, Ids, Line

Array: TypeAlias = npt.NDArray[Any]

FOLDS = 5
LEAST = 20  # cases that people found harmful, and others, below which nothing is promised
STRENGTH = 30.0  # scikit-learn's C; rows of runs have length one
OFTEN = 2  # cases that show a run before it is learned
UNLIKE = 0.01  # share of people's cases that are less known than `known_from`
NEVER = -12.0  # logit of a category that no case shows


@dataclass(frozen=True, kw_only=True, eq=False)
class Cases:
    """Labelled cases as the router reads them.

    Args:
        runs: Of each, `n` of them.
        numbers: `(n, m)`.
        names: Of the numbers.
        outputs: `unsafe`, and categories, `k`.
        shown: Which apply, `(n, k)`.
        sure: Of which that is known, `(n, k)`.
        people: Whether people said so, `(n,)`.
        lengths: Characters, `(n,)`.
    """

    runs: Sequence[Ids]
    numbers: Array
    names: tuple[str, ...]
    outputs: tuple[str, ...]
    shown: Array
    sure: Array
    people: Array
    lengths: Array

    def __len__(self) -> int:
        """Return the number of cases."""
        return len(self.runs)

    @property
    def told(self) -> Array:
        """Return the cases of which people say whether they are harmful, `(n,)`."""
        return np.asarray(self.people & self.sure[:, 0])


def fit(cases: Cases, costs: Costs, *, seed: int = 0) -> tuple[Line, Array, Array]:
    """Learn a line of all cases.

    Returns:
        It, and what a line says of each case that was learned without it: chances `(n, k)`, and the share of its runs that is known `(n,)`.

    Raises:
        InputError: Fewer than `FOLDS` cases that people labelled are harmful, or harmless.
    """
    with optional():
        from sklearn.model_selection import StratifiedKFold
    harmful, told = cases.shown[:, 0], cases.told
    if min((harmful & told).sum(), (~harmful & told).sum()) < FOLDS:
        raise InputError(
            f"people found {int((harmful & told).sum())} cases harmful and {int((~harmful & told).sum())} not; the router needs at least "
            f"{FOLDS} of each to learn, and {LEAST} to clear anything"
        )
    logits, known = np.zeros((len(cases), len(cases.outputs))), np.zeros(len(cases))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    for rest, some in folds.split(np.zeros(len(cases)), harmful + 2 * cases.people):
        line = _fit(cases, rest, costs)
        for i in some:
            logits[i], known[i] = line.logits(cases.runs[i], cases.numbers[i]), line.known(cases.runs[i])
    line = _fit(cases, np.arange(len(cases)), costs)
    calibration, trusted = np.tile([1.0, 0.0], (len(cases.outputs), 1)), []
    for k, name in enumerate(cases.outputs):
        looked = cases.people & cases.sure[:, k]
        shown = cases.shown[looked, k]
        if min(shown.sum(), (~shown).sum()) >= FOLDS:
            calibration[k] = _platt(logits[looked, k], shown)
        if min(shown.sum(), (~shown).sum()) >= LEAST:
            trusted.append(name)
    unlike = float(np.quantile(known[told], UNLIKE)) if any(map(len, cases.runs)) else 0.0
    chances = 1 / (1 + np.exp(-(logits * calibration[:, 0] + calibration[:, 1])))
    longest = int(cases.lengths.max(initial=0))
    whole = replace(line, calibration=calibration, trusted=tuple(trusted), known_from=unlike, longest=longest)
    return whole, chances, known


def _fit(cases: Cases, places: Array, costs: Costs) -> Line:
    """Learn of some cases, without calibration."""
    with optional():
        from scipy.sparse import csr_matrix, hstack
        from sklearn.linear_model import LogisticRegression
    every = [cases.runs[i] for i in places]
    ids, often = np.unique(np.concatenate([*every, np.zeros(0, np.uint32)]).astype(np.uint32), return_counts=True)
    ids = ids[often >= OFTEN]
    numbers = cases.numbers[places]
    centre, scale = numbers.mean(0), np.maximum(numbers.std(0), 1e-3)
    columns = [np.searchsorted(ids, runs[np.isin(runs, ids)]) for runs in every]
    values = [np.full(len(own), 1 / np.sqrt(max(1, len(runs)))) for own, runs in zip(columns, every, strict=True)]
    ends = np.concatenate([[0], np.cumsum([len(own) for own in columns])])
    table = csr_matrix((np.concatenate(values), np.concatenate(columns), ends), shape=(len(every), len(ids)))
    rows = hstack([table, csr_matrix(np.clip((numbers - centre) / scale, -5, 5))]).tocsr()
    k = len(cases.outputs)
    weights, bias = np.zeros((rows.shape[1], k)), np.full(k, NEVER)
    for output in range(k):
        looked = cases.sure[places, output]
        shown = cases.shown[places, output][looked]
        if shown.all() or not shown.any():
            continue  # nothing to tell apart: it stays as good as impossible, and is not trusted
        model = LogisticRegression(C=STRENGTH, max_iter=1000).fit(rows[looked], shown)
        weights[:, output], bias[output] = model.coef_[0], model.intercept_[0]
    return Line(
        outputs=cases.outputs, ids=ids, weights=weights[: len(ids)].astype(np.float32), numbers=cases.names, centre=centre,
        scale=scale, slopes=weights[len(ids) :], bias=bias, calibration=np.tile([1.0, 0.0], (k, 1)), trusted=(), costs=costs,
    )  # fmt: skip


def _platt(logits: Array, shown: Array) -> tuple[float, float]:
    """Return slope and offset that make logits those of chances; the slope is never below 0."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1e3).fit(logits[:, None], shown)
    slope, offset = float(model.coef_[0, 0]), float(model.intercept_[0])
    if slope > 0:
        return slope, offset
    share = float(np.clip(shown.mean(), 1e-6, 1 - 1e-6))
    return 0.0, float(np.log(share / (1 - share)))


def outputs_of(names: Sequence[str]) -> tuple[str, ...]:
    """Return the outputs of a line that tells these categories."""
    return (UNSAFE, *names)
