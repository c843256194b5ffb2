"""When to stop learning: stay at the peak rate while held-back examples gain, then let the rate fall to nothing.

Nobody can say beforehand how many steps a set of examples is worth. So the rate waits at its peak; once a few checks in a row bring no
gain, or when the most steps that are allowed are nearly done, it falls in a line, and training ends with it.
Paper: https://arxiv.org/abs/2404.06395 (warm-up, stable, decay)
"""

from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Plateau:
    """Decides the rate of a step and the end.

    Args:
        most: Steps at most.
        every: Steps between checks.
        patience: Checks without a gain before the rate falls; 0 waits for the most steps.
        gain: Least gain that counts, in units of the score.
        warmup: Steps of rising rate.
        cooling: Share of all steps in which the rate falls.
        scores: Of the checks so far, larger is better.
        falls_at: Step at which the rate began to fall.
        slack: How far below the best score a later model may lie and still be the one to keep: scores of a few hundred images are
            noisy, and a later model has learned more, at a lower rate.
        best: Check whose model is kept.

    >>> one = Plateau(most=1000, every=50, patience=2, warmup=1)
    >>> for score in (0.5, 0.7, 0.7, 0.7):
    ...     _ = one.note(score)
    >>> one.falls_at, one.ends_at
    (200, 267)
    """

    most: int
    every: int
    patience: int
    gain: float = 0.002
    warmup: int = 30
    cooling: float = 0.25
    slack: float = 0.0
    scores: list[float] = field(default_factory=list)
    falls_at: int | None = None
    best: int = -1

    @property
    def ends_at(self) -> int:
        """Return after how many steps training ends, as far as is known now."""
        if self.falls_at is None:
            return self.most
        return min(self.most, round(self.falls_at / (1 - self.cooling)))

    def state(self) -> dict[str, object]:
        """Return what a killed job needs to go on."""
        return {"scores": self.scores, "falls_at": self.falls_at, "best": self.best}

    def go_on(self, state: dict[str, object]) -> None:
        """Go on from there."""
        self.__dict__.update(state)

    def factor(self, step: int) -> float:
        """Return the rate of a step as a part of the peak."""
        last = self.falls_at if self.falls_at is not None else round(self.most * (1 - self.cooling))
        rising = min(1.0, (step + 1) / self.warmup)
        return rising if step < last else rising * max(0.02, (self.ends_at - step) / max(1, self.ends_at - last))

    def note(self, score: float) -> bool:
        """Take the score of a check; tell whether this model is the one to keep so far."""
        self.scores.append(score)
        last = len(self.scores) - 1
        better = score >= max(self.scores) - self.slack
        if better:
            self.best = last
        if self.falls_at is None and self.patience and last >= self.patience:
            before, late = self.scores[: -self.patience], self.scores[-self.patience :]
            if max(late) < max(before) + self.gain:
                self.falls_at = len(self.scores) * self.every
        return better
