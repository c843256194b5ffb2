"""Fit a classifier to a few examples in seconds: a frozen encoder sees, and a closed form or the examples themselves decide.

Papers: https://arxiv.org/abs/2207.09519 (Tip-Adapter, Tip-Adapter-F), https://arxiv.org/abs/2402.04087 (a Gaussian for each class)
Differs: categories do not exclude each other, so each is told from all images that are known not to show it; what nobody looked for counts
    on neither side; what several vectors of an image say lies side by side.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from tilth import models
from tilth.encoders.families import family_of, max_similarity, open_encoder
from tilth.encoders.few_shot import Fitted, Floats, side_by_side
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.train.artifacts.artifact import About, normalise, preprocessing, read_about, save_trained
from tilth.train.learn.examples import Example, Examples, forget, gather, known, present
from tilth.train.learn.fine_tune import STATES, check_states
from tilth.train.measure.metrics import average_precision

if TYPE_CHECKING:
    from tilth.policy import Policy
    from tilth.train.artifacts.few_shot import FewShotClassifier

Table = npt.NDArray[np.bool_]
Fit = Callable[["Shots"], "Fitted"]

SHARPNESS = (1.0, 3.0, 5.5, 10.0, 20.0)  # 5.5 is the paper's
FOLDS = 5
BELIEVED = 3.0  # examples that must say something before half of it is believed
LEAST = 1e-6
TUNE_LR, TUNE_BATCH = 1e-3, 256  # of Tip-Adapter-F, as in the paper
SURE = 0.6  # weight of what is known of a label, from which on it is an example


@dataclass(frozen=True, kw_only=True)
class Shots:
    """Vectors of images, and what is known of them.

    Args:
        vectors: `(n, q, d)`, each of length one.
        truth: Which labels they show, `(n, k)`.
        sure: Where that is known, `(n, k)`.
    """

    vectors: Floats
    truth: Table
    sure: Table

    @property
    def shown(self) -> Table:
        """Return which labels they are known to show, `(n, k)`."""
        return np.asarray(self.truth & self.sure)

    @property
    def absent(self) -> Table:
        """Return which labels they are known not to show, `(n, k)`."""
        return np.asarray(self.sure & ~self.truth)

    def of(self, places: npt.NDArray[np.int64]) -> "Shots":
        """Return some of them."""
        return Shots(vectors=self.vectors[places], truth=self.truth[places], sure=self.sure[places])

    @property
    def flat(self) -> Floats:
        """Return a vector of length one an image, `(n, q·d)`."""
        return side_by_side(self.vectors)


def gaussian(shots: Shots) -> Fitted:
    """Fit a Gaussian to what shows each label and one to what does not, all of one shape.

    The inverse of the shape is the paper's estimate for few examples, d · ((n - 1) S + trace(S) I)^-1.
    """
    flat, yes = shots.flat, shots.shown
    n, d = flat.shape
    with_, without = (_mean(flat, some) for some in (yes, shots.absent))
    bare = yes.sum(1) == 0
    nothing = flat[bare].mean(0) if bare.any() else flat.mean(0)
    rest = flat - np.where(bare[:, None], nothing, with_[yes.argmax(1)])
    spread = max(float((rest**2).sum()) / max(1, n - 1), LEAST)
    sides = np.concatenate([with_, without]).T
    if n < d:  # the same by a smaller matrix
        inner = rest @ rest.T + spread * np.eye(n, dtype=np.float32)
        turned = d * (sides - rest.T @ np.linalg.solve(inner, rest @ sides)) / spread
    else:
        turned = d * np.linalg.solve(rest.T @ rest + spread * np.eye(d, dtype=np.float32), sides)
    k, turned = yes.shape[1], np.asarray(turned.T, np.float32)
    told = np.asarray((yes.sum(0) > 0) & (shots.absent.sum(0) > 0), np.float32)
    weight = np.asarray((turned[:k] - turned[k:]) * told[:, None])
    bias = np.asarray(((turned[k:] * without).sum(1) - (turned[:k] * with_).sum(1)) / 2 * told)
    none = np.zeros((0, d), np.float32)
    return Fitted(
        weight=weight, bias=bias, examples=none, says=none[:, :0].reshape(0, k), words=np.zeros(k, np.float32)
    )


def tip(shots: Shots, sharpness: float) -> Fitted:
    """Let each example speak for its labels, the louder the nearer it is; a label of many examples is not louder for that."""
    yes = shots.shown
    kept = yes.sum(1) > 0
    flat, says = shots.flat[kept], np.asarray(yes[kept] / np.maximum(1, yes.sum(0)), np.float32)
    k, d = yes.shape[1], shots.flat.shape[1]
    zeros = np.zeros(k, np.float32)
    return Fitted(
        weight=np.zeros((k, d), np.float32), bias=zeros, examples=flat, says=says, words=zeros, sharpness=sharpness
    )


def _mean(values: Floats, some: Table) -> Floats:
    """Return the mean of the rows that each column of a table takes, `(k, d)`; 0 where it takes none."""
    return np.asarray(some.T @ values / np.maximum(1, some.sum(0))[:, None], np.float32)


def judged(fit: Fit, shots: Shots, texts: Floats, seed: int) -> Floats:
    """Return what each part of the examples gets from the others, `(n, k)`; each label is spread evenly over the parts."""
    yes = shots.shown
    kinds = np.where(yes.sum(1) > 0, yes.argmax(1), yes.shape[1])
    order = np.lexsort((np.random.default_rng(seed).random(len(kinds)), kinds))
    part = np.empty(len(order), int)
    part[order] = np.arange(len(order)) % FOLDS
    found = np.zeros(yes.shape, np.float32)
    for each in np.unique(part):
        inside = np.flatnonzero(part == each)
        if len(inside) < len(part):
            found[inside] = fit(shots.of(np.flatnonzero(part != each)))(shots.vectors[inside], texts)
    return found


def weigh(said: Floats, words: Floats, shots: Shots) -> tuple[Floats, Floats, Floats]:
    """Return what examples and texts count, and what is added, so that their sum tells each label best: linear discriminants of the two.

    How much a text tells is its own for each label, as a model may not know the word, drawn to what texts tell in the mean as if
    `BELIEVED` examples had said so; what examples tell is drawn to nothing in the same way. Both are alike spread for all labels.

    Args:
        said: Of examples that were not fitted to, `(n, k)`.
        words: Similarity to the texts, `(n, k)`.
        shots: What they show.

    Returns:
        Slopes of both and offsets, each `(k,)`.
    """
    both = np.stack([said, words], 2).astype(float)
    yes, no = shots.shown, shots.absent
    n = yes.sum(0)[:, None]
    high, low = (np.einsum("nk,nki->ki", some, both) / np.maximum(1, some.sum(0))[:, None] for some in (yes, no))
    rest = both - np.where(yes[..., None], high, low)
    # what shows a label counts as much as what does not
    each = yes / np.maximum(1, yes.sum(0)) + no / np.maximum(1, no.sum(0))
    shape = np.einsum("nk,nki,nkj->ij", each, rest, rest) / max(1.0, float(each.sum()))
    gaps = np.where(n > 0, high - low, 0.0)
    believed = np.array([0.0, gaps[n[:, 0] > 0, 1].mean() if (n > 0).any() else 0.0])
    gaps = (n * gaps + BELIEVED * believed) / (n + BELIEVED)
    slopes = np.maximum(0.0, gaps @ np.linalg.pinv(shape + LEAST * np.eye(2)))
    offsets = -(slopes * (low + gaps / 2)).sum(1)
    told: tuple[Floats, Floats, Floats] = (slopes[:, 0], slopes[:, 1], offsets)
    return told


def precisions(logits: Floats, shots: Shots) -> npt.NDArray[np.float64]:
    """Return the average precision of each label, `(k,)`; nan where no image shows it."""
    found = []
    for k in range(logits.shape[1]):
        told = shots.sure[:, k]
        right = shots.truth[told, k]
        found.append(average_precision(logits[told, k], right, int(right.sum())))
    return np.array(found)


def quality(logits: Floats, shots: Shots) -> float:
    """Return the mean average precision of the labels that some image shows; nan when none is."""
    each = precisions(logits, shots)
    return float(np.nanmean(each)) if not np.isnan(each).all() else float("nan")


def fit_best(method: str, shots: Shots, texts: Floats, seed: int) -> tuple[Fitted, float]:
    """Fit in each way that a method allows, and return the best on examples that were held out, with its quality there.

    Examples of a label count only where they raise its average precision on those held out by more than one of them could by chance: a few
    unlike the others made it worse than words alone. Where no label has two examples nothing can be held out: the texts count ten times as
    much then, and the quality is nan.
    """
    ways: list[Fit] = [gaussian] if method in ("auto", "gaussian") else []
    ways += [partial(tip, sharpness=sharpness) for sharpness in SHARPNESS] if method in ("auto", "tip") else []
    words = max_similarity(shots.vectors, texts)
    alone = shots.shown.sum(0).max() < 2
    by_words = np.where(
        np.ptp(words, axis=0) > 0, precisions(words, shots), -1.0
    )  # below any, of an encoder that reads nothing
    least = by_words + 1 / np.maximum(1, shots.shown.sum(0))
    found: list[tuple[float, Fit, tuple[Floats, Floats, Floats]]] = []
    for fit in [gaussian if method == "auto" else ways[len(ways) // 2]] if alone else ways:
        said = np.zeros_like(words) if alone else judged(fit, shots, texts, seed)
        slopes, heard, offsets = weigh(said, words, shots)
        if not alone:
            better = precisions(said * slopes + words * heard, shots) > least
            said = np.asarray(said * better, np.float32)
            slopes, heard, offsets = weigh(said, words, shots)
            slopes = slopes * better
        found.append((quality(said * slopes + words * heard + offsets, shots), fit, (slopes, heard, offsets)))
    best, fit, (slopes, heard, offsets) = max(found, key=lambda one: one[0])
    fitted = fit(shots)
    if alone:
        own = fitted(shots.vectors, texts)
        spread = (
            float((words * heard).std()) / 10 or 1.0
        )  # of an encoder that reads nothing, the examples are all there is
        slopes = np.full_like(slopes, spread / max(float(own.std()), LEAST))
        offsets, best = offsets - slopes * own.mean(0), float("nan")
    return fitted.scaled(slopes, offsets, heard), best


@step
class FewShot:
    """Fit a classifier to a few examples in seconds, without training an encoder.

    Leaves a classifier like `train.classifier` does: `calibrate`, `evaluate` and `package` take it. How it is fitted, and how much the
    prompts of the policy count for each category, is chosen by what examples say of others; images that are held back are for `calibrate`.

    Args:
        model: Encoder, of any family that mining knows: BLIP-2, CLIP, SigLIP, DINOv2, …
        method: `gaussian`, a closed form; `tip`, Tip-Adapter's comparison with each example; `auto`, what is better.
        tune: Passes over the examples in which those of Tip-Adapter move (Tip-Adapter-F); 0 leaves them where they are.
        shots: Examples of a category at most, and as many that show nothing; 0 for all.
        states: Which samples to learn from: reviewed, confirmed_empty, auto.
        image_side: Side of the square that images are resized to; the encoder's own when 0.
        batch_size: Images that are encoded at once.
    """

    model: str = "starter:retrieval"
    method: Literal["auto", "gaussian", "tip"] = "auto"
    tune: int = 0
    shots: int = 0
    states: tuple[str, ...] = ("reviewed", "confirmed_empty")
    image_side: int = 0
    batch_size: int = 64

    def __post_init__(self) -> None:
        """Check the settings."""
        if min(self.tune, self.shots) < 0:
            raise ValueError(f"tune and shots must not be negative, got {self.tune} and {self.shots}")
        if self.tune and self.method == "gaussian":
            raise ValueError("tune moves the examples of tip; a Gaussian has none")
        check_states(self.states)

    def models(self) -> tuple[str, ...]:
        """Name the encoder."""
        return (self.model,)

    def run(self, work: Work) -> Facts:
        """Encode, fit, and publish the model under the step's name.

        Raises:
            InputError: No image shows any of the categories.
        """
        done = work.folder / "model"
        if done.is_dir():
            work.publish(work.name, done)
            return {"model": str(done), **read_about(done).trained}
        family_of(self.model)  # before images are read
        labels = [c.name for c in work.policy.pictured]
        side, mean, std = preprocessing(self.model)
        about = About(
            kind="classifier",
            base=models.source(self.model),
            labels=labels,
            side=self.image_side or side,
            mean=mean,
            std=std,
        )
        states = [STATES[name] for name in self.states]
        data = gather(work, labels, about.side, states=states, max_made_ratio=0.0, boxes_only=False)
        places = taken(data.rows, len(labels), self.shots)
        model = self._encoder(work, len(labels))
        shots = self._encode(work, model, about, data, places)
        texts = words_of(self.model, work.policy, work.device)
        began = perf_counter()
        told = np.zeros((len(labels), shots.vectors.shape[2]), np.float32) if texts is None else texts
        fitted, best = fit_best("tip" if self.tune else self.method, shots, told, work.seed)
        fill(model, fitted, told)
        if self.tune:
            move(model, shots, self.tune, work.seed)
        shown = shots.shown.sum(0)
        about.trained = {
            "method": "tip" if len(fitted.examples) else "gaussian", "sharpness": fitted.sharpness, "tuned": self.tune,
            "reads": texts is not None, "quality": None if np.isnan(best) else round(best, 4),
            "fit_seconds": round(perf_counter() - began, 2), "train_images": len(places),
            "images_per_label": dict(zip(labels, shown.tolist(), strict=True)),
            "never_shown": [label for label, n in zip(labels, shown, strict=True) if not n],
        }  # fmt: skip
        path = work.publish(work.name, save_trained(model, about, work.folder / "model"))
        forget(work)
        return {"model": str(path), **about.trained}

    def _encoder(self, work: Work, n_labels: int) -> "FewShotClassifier":
        """Return the encoder, with nothing fitted to it yet."""
        from tilth.train.artifacts.few_shot import around

        model: FewShotClassifier = around(self.model, n_labels).to(models.device(work.device)).eval()
        return model

    def _encode(
        self, work: Work, model: "FewShotClassifier", about: About, data: Examples, places: npt.NDArray[np.int64]
    ) -> Shots:
        """Return the vectors of examples, and what is known of them."""
        import torch

        from tilth.engine.views import to_unit

        device, found = models.device(work.device), list[Floats]()
        with work.events.progress(f"{work.name}: encode", len(places)) as advance, torch.inference_mode():
            for start in range(0, len(places), self.batch_size):
                some = places[start : start + self.batch_size]
                pixels = normalise(to_unit(data.images(some), device), about)
                found.append(model.vectors(pixels).cpu().numpy())
                advance(len(some))
        rows = [data.rows[i] for i in places]
        return Shots(vectors=np.concatenate(found), truth=present(rows, len(about.labels)) > 0, sure=known(rows) > SURE)


def taken(rows: Sequence[Example], n_labels: int, shots: int) -> npt.NDArray[np.int64]:
    """Return the places of the examples, the first `shots` of each label and of none; what is held back is for `calibrate`."""
    counts: Counter[int] = Counter()
    found = []
    for place in sorted(range(len(rows)), key=lambda i: rows[i].id):  # ids are as good as drawn at random
        row = rows[place]
        labels = set(row.labels) or {n_labels}
        if not row.val and any(row.looked) and (not shots or any(counts[label] < shots for label in labels)):
            found.append(place)
            counts.update(labels)
    return np.array(found, np.int64)


def words_of(name: str, policy: "Policy", device: str) -> Floats | None:
    """Return a unit vector of the prompts of each picture category, `(k, d)`; None when the encoder reads no words."""
    if family_of(name) != "blip-2" and "text_config" not in models.settings(name):
        return None
    encoder = open_encoder(name, device)
    found = np.stack([encoder.texts(category.prompts).mean(0) for category in policy.pictured])
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


def fill(model: "FewShotClassifier", fitted: Fitted, texts: Floats) -> None:
    """Put what was fitted into a model."""
    import torch

    model.config.examples = len(fitted.examples)
    with torch.no_grad():
        for name, value in (
            ("examples", fitted.examples), ("says", fitted.says), ("texts", texts), ("sharpness", fitted.sharpness),
            ("words", fitted.words),
        ):  # fmt: skip
            setattr(model, name, torch.nn.Parameter(torch.tensor(value, dtype=torch.float32, device=model.device)))
        model.linear.weight.copy_(torch.from_numpy(fitted.weight))
        model.linear.bias.copy_(torch.from_numpy(fitted.bias))


def move(model: "FewShotClassifier", shots: Shots, epochs: int, seed: int) -> None:
    """Let the examples of Tip-Adapter move to where they tell the labels apart best, as Tip-Adapter-F does."""
    import torch
    from torch.nn import functional as F  # noqa: N812

    device = model.device
    vectors, truth, sure = (
        torch.from_numpy(np.asarray(each, np.float32)).to(device) for each in (shots.vectors, shots.truth, shots.sure)
    )
    optimiser = torch.optim.AdamW([model.examples], TUNE_LR)
    draw = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    model.examples.requires_grad_(True)
    for _ in range(epochs):
        for some in torch.randperm(len(truth), generator=draw).to(device).split(TUNE_BATCH):
            loss = F.binary_cross_entropy_with_logits(model.say(vectors[some]), truth[some], reduction="none")
            optimiser.zero_grad()
            (loss * sure[some]).mean().backward()
            optimiser.step()
