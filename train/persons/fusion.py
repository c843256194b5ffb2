"""What all cues say together: who it is, and how likely that is; nobody who is known is always one of the answers.

Each cue gives evidence for each known person: a line in its z-score, whose slope and height follow from the quality of the crop, and that
bends towards one limit that all cues share, so that none can outvote two others that are sure. Missing cues give none. The chances of all
known people and of "unknown" add up to one, so a picture that looks like two of them is sure of neither.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tilth.train.persons.cues import CUES, QUALITIES
from tilth.train.persons.scores import Compared, Floats, Strangers

if TYPE_CHECKING:
    import torch

ROUNDS = 60  # of L-BFGS
HOLD = 2e-3  # how strongly weights are held where they began
LIMITS = (2.0, 8.0)  # of the evidence of one cue: without an upper one it grows until a single cue decides alone
UNKNOWN = -1


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """Learned weights.

    Args:
        strangers: What z-scores are counted from.
        slope: `(c, 4)`: of the z-score, for 1 and each quality.
        height: `(c, 4)`: likewise.
        limit: Most evidence, in logits, that one cue gives for or against somebody.
        bias: Evidence for each known person before anything is seen.
    """

    strangers: Strangers
    slope: tuple[tuple[float, ...], ...]
    height: tuple[tuple[float, ...], ...]
    limit: float
    bias: float

    def evidence(self, of: Compared) -> Floats:
        """Return the evidence of each cue for each person, `(n, k, c)` logits within the limit."""
        return np.asarray(
            _bent(
                self.strangers.z(of),
                of.both,
                _told(of.quality),
                np.array(self.slope),
                np.array(self.height),
                self.limit,
                np,
            )
        )

    def chances(self, of: Compared) -> npt.NDArray[np.float64]:
        """Return how likely each picture shows each known person, `(n, k)`; what is left is the chance of none."""
        logits = self.evidence(of).astype(np.float64).sum(-1) + self.bias
        logits = np.where(of.both.any(-1), logits, -60.0)
        most = np.maximum(logits.max(1, keepdims=True, initial=0.0), 0.0)
        told = np.exp(logits - most)
        return np.asarray(told / (told.sum(1, keepdims=True) + np.exp(-most)))


def _told(quality: Floats) -> Floats:
    """Put a 1 before the qualities, `(n, 1, c, 4)`."""
    return np.concatenate([np.ones_like(quality[..., :1]), quality], -1)[:, None]


def _bent(z: Any, both: Any, told: Any, slope: Any, height: Any, limit: Any, of: Any) -> Any:
    """Return evidence; `of` is numpy or torch."""
    line = (told * slope).sum(-1) * z + (told * height).sum(-1)
    return of.tanh(line / limit) * limit * both


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Pictures beside a list of known people, and who they are: places in the list, or -1 for somebody else."""

    compared: Compared
    who: npt.NDArray[np.int64]


def learn(asked: list[Asked], counted: Strangers, cues: tuple[str, ...] = CUES) -> Fusion:
    """Learn to say who it is, and when it is none.

    Args:
        asked: As it will be asked later: lists as long, and as many pictures of others.
        counted: What z-scores are counted from.
        cues: That are heard.
    """
    import torch

    torch.manual_seed(0)
    c, q = len(CUES), len(QUALITIES) + 1
    bounded = lambda t: LIMITS[0] + (LIMITS[1] - LIMITS[0]) * t.sigmoid()  # noqa: E731
    heard = torch.tensor([cue in cues for cue in CUES])
    lists = []
    for one in asked:
        of = one.compared
        arrays = counted.z(of), of.both, _told(of.quality), np.where(one.who < 0, of.cosines.shape[1], one.who)
        z, both, told, who = (torch.from_numpy(array) for array in arrays)
        lists.append((z, both & heard, told, who))
    start_slope, start_height = torch.zeros(c, q), torch.zeros(c, q)
    start_slope[:, 0], start_height[:, 0] = 1.0, -1.0
    slope, height = start_slope.clone().requires_grad_(), start_height.clone().requires_grad_()
    limit, bias = torch.tensor(0.0, requires_grad=True), torch.tensor(-3.0, requires_grad=True)
    optimizer = torch.optim.LBFGS([slope, height, limit, bias], max_iter=ROUNDS, line_search_fn="strong_wolfe")

    def closure() -> "torch.Tensor":
        optimizer.zero_grad()
        total = HOLD * (((slope - start_slope) ** 2).sum() + ((height - start_height) ** 2).sum())
        for z, both, told, who in lists:
            logits = _bent(z, both, told, slope, height, bounded(limit), torch).sum(-1) + bias
            logits = torch.cat([logits, torch.zeros(len(logits), 1)], 1)
            total = total + torch.nn.functional.cross_entropy(logits, who) / len(lists)
        total.backward()
        return total

    optimizer.step(closure)
    gone = ~heard[:, None]
    rows = lambda t: tuple(tuple(float(v) for v in row) for row in t.detach().masked_fill(gone, 0.0))  # noqa: E731
    return Fusion(
        strangers=counted,
        slope=rows(slope),
        height=rows(height),
        limit=float(bounded(limit.detach())),
        bias=float(bias.detach()),
    )


def decided(chances: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the likeliest known person of each picture, and that chance."""
    best = chances.argmax(1)
    return best, chances[np.arange(len(chances)), best]
