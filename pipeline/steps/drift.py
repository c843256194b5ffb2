"""Does what comes in still look like what the model in use was trained on? Its scores and the measured columns of both, compared.

Papers: Kolmogorov, 1933 (the two-sample statistic is scipy's); the population stability index is credit scoring's, see
    https://arxiv.org/abs/2204.07131
"""

import heapq
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tilth.claims import Json
from tilth.data.dataset import Dataset
from tilth.engine.job import batched
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.runtime.bundles.bundle import MANIFEST, in_use, load_bundle

Array = npt.NDArray[np.floating[Any]]

BINS = 10  # as many of the older values in each
LEAST = 50  # images on either side; fewer tell nothing
RESAMPLES = 200
READ = 64  # images at once


def drawn(batches: Iterable[list[str]], most: int, rng: np.random.Generator) -> tuple[list[str], int]:
    """Draw some ids of a stream, each as likely as another, and count them all.

    >>> drawn([["a", "b"], ["c"]], 5, np.random.default_rng(0))
    (['a', 'b', 'c'], 3)
    """
    kept: list[tuple[float, int, str]] = []
    seen = 0
    for some in batches:
        for chance, id_ in zip(rng.random(len(some)).tolist(), some, strict=True):
            seen += 1
            if len(kept) < most:
                heapq.heappush(kept, (chance, seen, id_))
            else:
                heapq.heappushpop(kept, (chance, seen, id_))
    return [id_ for _, _, id_ in sorted(kept, key=lambda row: row[1])], seen


def stability_index(old: Array, new: Array, edges: Array) -> float:
    """Return the population stability index of two sets of values: 0 when they fall alike, above 0.25 by custom a drift.

    Args:
        old: Values.
        new: Others.
        edges: Between the bins.

    >>> rng = np.random.default_rng(0)
    >>> a, b, c = (rng.normal(mean, size=4000) for mean in (0, 0, 1))
    >>> edges = np.quantile(a, np.linspace(0, 1, 11)[1:-1])
    >>> stability_index(a, b, edges) < 0.02, stability_index(a, c, edges) > 0.5
    (True, True)
    """
    shares = []
    for values in (old, new):
        counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
        shares.append((counts + 0.5) / (len(values) + 0.5 * (len(edges) + 1)))  # no bin is empty for certain
    was, now = shares
    return float(((now - was) * np.log(now / was)).sum())


def compare(old: Array, new: Array, seed: int) -> dict[str, Json]:
    """Return the index with its 95 % bootstrap interval, and the Kolmogorov-Smirnov statistic with its p value.

    With few images the index of two halves of one set is not zero; what such halves show is taken off before anybody is alarmed.
    """
    from scipy.stats import ks_2samp

    rng = np.random.default_rng(seed)
    edges = np.unique(np.quantile(old, np.linspace(0, 1, BINS + 1)[1:-1]))
    found = stability_index(old, new, edges)
    draw = lambda values, n: values[rng.integers(0, len(values), n)]  # noqa: E731
    drawn = [stability_index(draw(old, len(old)), draw(new, len(new)), edges) for _ in range(RESAMPLES)]
    alike = [stability_index(draw(old, len(old)), draw(old, len(new)), edges) for _ in range(RESAMPLES)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    test = ks_2samp(old, new)
    return {
        "psi": {"mean": round(found, 4), "ci95": [round(float(low), 4), round(float(high), 4)]},
        "psi_of_chance": round(float(np.quantile(alike, 0.95)), 4),
        "ks": round(float(test.statistic), 4),
        "p": float(f"{test.pvalue:.3g}"),
    }


def _since(dataset: Dataset, before: Dataset, where: str) -> Iterator[list[str]]:
    for some in dataset.ids(where, dropped=False):
        were = before.contains(some)
        yield [id_ for id_ in some if id_ not in were]


@step
class Drift:
    """Compare the images that came since the bundle in use was made with those that it was made from.

    Its calibrated scores, category by category, and measured numbers of the images, each by the population stability index and the
    Kolmogorov-Smirnov statistic. What drifts is named; nothing is stopped.

    Args:
        bundle: Of the model in use, or a champion; where there is none yet, that is what is reported.
        columns: Measured numbers of the images.
        most: Images at most on either side, drawn at random.
        alarm: Index from which on something drifts, at the lower end of its interval, and beyond what chance shows.
    """

    bundle: Path
    columns: tuple[str, ...] = ("quality.sharpness", "quality.contrast", "quality.brightness", "quality.min_side")
    most: int = 1000
    alarm: float = 0.25

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.most < LEAST:
            raise ValueError(f"most must be at least {LEAST}, got {self.most}")
        if self.alarm <= 0:
            raise ValueError(f"alarm must be positive, got {self.alarm}")

    def run(self, work: Work) -> Facts:
        """Look at both sides with the model in use."""
        folder = in_use(self.bundle).resolve()
        if not (folder / MANIFEST).exists():
            return {"bundle": None, "reason": f"no bundle is in use yet in {self.bundle}"}
        made = json.loads((folder / MANIFEST).read_text())
        version = made.get("dataset_version")
        try:
            before = work.dataset.checkout(int(version)) if version else None
        except InputError:  # made from another dataset
            before = None
        if before is None or before.digest() != made.get("dataset_digest") or not before.count():
            return {
                "bundle": folder.name,
                "reason": "the bundle in use was not made from this dataset, or from a version of it that is gone",
            }
        rng = np.random.default_rng(work.seed)
        where = "split != 'test' and not made"
        old, n_old = drawn(before.ids(where, dropped=False), self.most, rng)
        new, n_new = drawn(_since(work.dataset, before, where), self.most, rng)
        counts: dict[str, Json] = {"images_before": n_old, "images_since": n_new}
        if min(n_old, n_new) < LEAST:
            return {
                "bundle": folder.name,
                **counts,
                "reason": f"fewer than {LEAST} images came since; nothing can be told",
            }
        sides = [self._values(work, folder, ids) for ids in (old, new)]
        series = {
            name: compare(*both, work.seed)
            for name in sides[0]
            if name in sides[1] and min(map(len, both := (sides[0][name], sides[1][name]))) >= LEAST
        }
        drifted = [name for name, told in series.items() if self._alarming(told)]
        if drifted:
            work.events.emit("drift", step=work.name, drifted=drifted, message=f"  drifted: {', '.join(drifted)}")
        return {"bundle": folder.name, **counts, "drifted": drifted, "series": series}

    def _alarming(self, told: dict[str, Any]) -> bool:
        return bool(told["psi"]["ci95"][0] > max(self.alarm, told["psi_of_chance"]))

    def _values(self, work: Work, folder: Path, ids: Sequence[str]) -> dict[str, Array]:
        stage1 = load_bundle(folder).stage1
        values: dict[str, list[float]] = {}
        with work.events.progress(work.name, len(ids)) as advance:
            for samples in self._read(work, ids):
                for sample, screen in zip(samples, stage1([s.pixels() for s in samples]), strict=True):
                    for name, score in screen.scores.items():
                        values.setdefault(f"score of {name}", []).append(score)
                    for name in self.columns:
                        number = sample.columns.get(name)
                        if isinstance(number, int | float) and math.isfinite(number):
                            values.setdefault(name.rpartition(".")[2], []).append(float(number))
                advance(len(samples))
        return {name: np.array(each) for name, each in values.items()}

    @staticmethod
    def _read(work: Work, ids: Sequence[str]) -> Iterator[list[Any]]:
        for some in batched(ids, READ):
            yield work.dataset.read(some)
