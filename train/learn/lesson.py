"""What one training learns from, batch by batch, and what it is judged by meanwhile."""

import math
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tilth import models
from tilth.claims import PEOPLE
from tilth.engine.fit import Alone, Curve
from tilth.engine.views import Views
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.events import Advance
from tilth.train.artifacts.artifact import About, any_size, normalise
from tilth.train.learn.examples import Example, Examples, doubtful, drawn
from tilth.train.measure.prediction import Prediction

if TYPE_CHECKING:
    import torch

MOST_VAL = 256  # held-back images that are looked at while training
ENOUGH = 20  # labels on held-back images, from which on what the model finds says more than its loss
SIDES = 32  # pixels from one side to the next, where sides differ
AHEAD = 2  # batches whose images are read while one is learned
PEOPLE_DRAWN = 4.0  # times as often as others are images drawn that people looked at


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one step learns from: a random view of each of n images.

    Args:
        pixels: `(n, 3, h, w)`, as the model takes them.
        rows: What is known of each image.
        boxes: Its boxes in the view, `(k, 4)` xyxy in parts of its side.
        seen: Which of them are still in view.
    """

    pixels: "torch.Tensor"
    rows: Sequence[Example]
    boxes: "Sequence[np.ndarray[Any, Any]]"
    seen: "Sequence[np.ndarray[Any, Any]]"


class Subject(Protocol):
    """What a lesson asks of the step that trains; see `fine_tune.FineTune`."""

    @property
    def model(self) -> str: ...
    @property
    def stream(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def accumulate(self) -> int: ...
    @property
    def multi_scale(self) -> float: ...
    @property
    def views(self) -> Views: ...
    def choose(self, model: Any, rows: Sequence[Example], side: int) -> Sequence[bool]: ...
    def beside(self, model: Any, batch: Batch) -> dict[str, Any]: ...
    def loss(self, model: Any, said: Any, batch: Batch) -> "torch.Tensor": ...
    def found(self, said: Any, batch: Batch, labels: Sequence[str]) -> list[Prediction]: ...
    def quality(self, predictions: Sequence[Prediction], labels: Sequence[str]) -> float: ...


class Lesson:
    """What one training learns from, batch by batch, and what it is judged by meanwhile.

    Args:
        step: What is trained, and how.
        work: Of the step.
        model: Is moved to the device.
        data: All examples.
        about: Of the model that will be.
        folder: Keeps the curve.
        place: Of this process among those that learn together.

    Raises:
        InputError: The model can learn from none of them.
    """

    def __init__(
        self,
        step: Subject,
        work: Work,
        model: Any,
        data: Examples,
        about: About,
        folder: Path,
        place: Alone | None = None,
    ) -> None:
        import torch

        self.step, self.model, self.data, self.about, self.seed = step, model, data, about, work.seed
        self.place = place or Alone()
        self.device = models.device(work.device)
        self.sides = self._sides(step.multi_scale)
        fits = np.array(step.choose(model, data.rows, about.side), bool)
        model.to(self.device).to(memory_format=torch.channels_last)  # convolutions are faster so
        self.train, val = (places[fits[places]] for places in (data.indices(val=False), data.indices(val=True)))
        self.val = val[:MOST_VAL]
        if not len(self.train):
            missing = f"no image was looked at for all of {', '.join(about.labels)}, and {step.model} needs that"
            raise InputError(f"{work.name}: {missing}")
        chances = draw_weights(data.rows, self.train, len(about.labels)).cumsum()
        self._chances = chances / chances[-1]
        self._reader, self._coming = ThreadPoolExecutor(1), dict[int, Future[Any]]()
        told = [shown(data.rows[i], about.labels) for i in self.val]
        self.measures = sum(label not in one.unasked for one in told for label in one.truth) >= ENOUGH
        self._bf16 = models.precision(self.device) == "bfloat16"
        if self._bf16 and self.device == "cpu":
            model.set_attn_implementation("eager")  # torch's own attention learns a third slower there
        self.told: dict[str, float] = {}
        self._curve = Curve(folder / "curve.jsonl")
        self.curve = self._curve.points
        self._step, self._losses = 0, list[float]()

    def _sides(self, share: float) -> list[int]:
        """Return the sides of squares that the model is shown: its own, and others near it that it can take.

        Raises:
            InputError: It cannot take its own, as sides have to be a multiple of its patches or windows.
        """
        own = self.about.side
        if why := self._refuses(own):
            cure = "set image_side to a multiple of its patches and windows, or to 0 for its own"
            raise InputError(f"{self.step.model} takes no images of {own} × {own} pixels ({why}); {cure}")
        near = range(math.ceil(own * (1 - share) / SIDES) * SIDES, int(own * (1 + share)) + 1, SIDES) if share else ()
        return sorted({own, *(side for side in near if not self._refuses(side))})

    def _refuses(self, side: int) -> str:
        """Show the model an empty image, and return why it cannot take it."""
        import torch

        try:
            with torch.no_grad():
                self.model.eval()(pixel_values=torch.zeros(1, 3, side, side), **any_size(self.model, side))
        except (ValueError, RuntimeError, AssertionError) as error:
            return str(error).splitlines()[0] if str(error) else type(error).__name__
        return ""

    def answer(
        self, net: Any, chosen: "np.ndarray[Any, Any]", squares: "np.ndarray[Any, Any]", rng: np.random.Generator, *,
        draw: bool = False, part: slice | None = None, side: int = 0,
    ) -> "tuple[Any, Batch]":  # fmt: skip
        """Show a model a random view of each of some examples; return what it says, and the views.

        Args:
            net: The model.
            chosen: Places of the examples.
            squares: Their images.
            rng: Of the views.
            draw: Whether what is in doubt is there in as many views as it is likely.
            part: Shows these alone; everything random is drawn for all.
            side: Of the views; that of the squares when 0.
        """
        import torch

        from tilth.engine.views import to_unit, views

        rows = [drawn(self.data.rows[i], rng) if draw else self.data.rows[i] for i in chosen]
        own = part or slice(None)
        images, rows = to_unit(squares[own], self.device), rows[own]
        x, boxes, seen = views(images, [boxes_of(row) for row in rows], rng, own, len(chosen), self.step.views)
        if side and side != x.shape[-1]:
            x = torch.nn.functional.interpolate(x, size=(side, side), mode="bilinear", antialias=True)
        batch = Batch(pixels=normalise(x, self.about), rows=rows, boxes=boxes, seen=seen)
        beside = self.step.beside(net, batch)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self._bf16):
            return net(pixel_values=batch.pixels, **beside), batch

    def _drawn(self, step: int) -> "tuple[np.random.Generator, np.ndarray[Any, Any]]":
        """Draw the images of a batch; return the generator that goes on with its views, too."""
        rng = np.random.default_rng((self.seed, self.step.stream, step))
        return rng, self.train[np.searchsorted(self._chances, rng.random(self.step.batch_size), side="right")]

    def loss_at(self, step: int) -> "torch.Tensor":
        """Return the loss of a batch; the images of the next ones are read meanwhile."""
        rng, chosen = self._drawn(step)
        for at in range(step, step + 1 + AHEAD):
            if at not in self._coming:
                self._coming[at] = self._reader.submit(lambda at: self.data.images(self._drawn(at)[1]), at)
        images, part = self._coming.pop(step).result(), self.place.part(self.step.batch_size)
        side = int(rng.choice(self.sides)) if len(self.sides) > 1 else 0
        loss = self.step.loss(
            self.model, *self.answer(self.model, chosen, images, rng, draw=True, part=part, side=side)
        )
        self._step = step // self.step.accumulate + 1
        self._losses.append(self.place.mean(loss))
        return loss

    def judge(self, averaged: "torch.nn.Module", advance: Advance) -> float:
        """Score a model on held-back images, the same views of them each time; larger is better."""
        rng = np.random.default_rng(self.step.stream)
        loss, found = 0.0, list[Prediction]()
        for start in range(0, len(self.val), self.step.batch_size):
            some = self.val[start : start + self.step.batch_size]
            said, batch = self.answer(averaged, some, self.data.images(some), rng)
            loss += float(self.step.loss(averaged, said, batch)) * len(batch.rows) / len(self.val)
            found += self.step.found(said, batch, self.about.labels)
        self.told["val_loss"] = loss
        if self.measures:
            self.told["val_quality"] = self.step.quality(found, self.about.labels)
        advance(0, **self.told)
        self._draw_curve()
        return self.told.get("val_quality", -loss)

    def close(self) -> None:
        """Read no further."""
        self._reader.shutdown(cancel_futures=True)

    def _draw_curve(self) -> None:
        """Note where training is."""
        self._curve.note(self._step, loss=float(np.mean(self._losses)), **self.told)
        self.curve, self._losses = self._curve.points, []


def draw_weights(rows: Sequence[Example], indices: "np.ndarray[Any, Any]", n_labels: int) -> "np.ndarray[Any, Any]":
    """Return the chance of each image to be drawn: images of rare labels more often, at most as often as of common ones.

    An image without labels is as rare as images without labels are. What people looked at comes more often than what only models did: it is
    what models were unsure of, and all that is known of a category that none of them was asked for.
    """
    counts = np.zeros(n_labels + 1)
    for i in indices:
        counts[list({*rows[i].labels} or {n_labels})] += 1
    rare = 1 / np.sqrt(np.maximum(counts, 1))

    def weight(row: Example) -> float:
        return float(rare[list(row.labels or (n_labels,))].max()) * (PEOPLE_DRAWN if row.reviewed else 1.0)

    raw = np.fromiter((weight(rows[i]) for i in indices), float, len(indices))
    return np.asarray(raw / raw.sum())


def boxes_of(row: Example) -> "np.ndarray[Any, Any]":
    """Return the boxes of an example, `(k, 4)` xyxy in parts of the image."""
    return np.array([b for b in row.boxes if b is not None], np.float32).reshape(-1, 4)


def counts(data: Examples, labels: Sequence[str], steps: int) -> dict[str, Any]:
    """Report what a model was trained on."""
    train = Counter[str]()
    shown, unseen = Counter[int](), Counter[int]()
    for row in data.rows:
        if row.val:
            continue
        unseen.update(i for i, by in enumerate(row.looked) if not by)
        if any(row.looked):
            train.update(["images"] + ["made"] * row.made + ["reviewed"] * row.reviewed)
            shown.update(set(row.labels))
    return {
        "train_images": train["images"], "val_images": len(data.indices(val=True)), "steps": steps,
        "made_images": train["made"], "reviewed_images": train["reviewed"],
        "images_per_label": {name: shown[i] for i, name in enumerate(labels)},
        "nobody_looked": {name: unseen[i] for i, name in enumerate(labels)},
    }  # fmt: skip


def shown(row: Example, labels: Sequence[str], **said: Any) -> Prediction:
    """Return what a model says of a view of an example, beside what is known of it; what is in doubt judges no model."""
    chances = row.likely or [float("nan")] * len(labels)
    unasked = [
        not by or (by not in PEOPLE and doubtful(chance, k in row.labels))
        for k, (by, chance) in enumerate(zip(row.looked, chances, strict=True))
    ]
    return Prediction(
        id=row.id, file="", part="", truth=tuple(labels[label] for label in row.labels),
        truth_boxes=said.get("true_boxes", []), logits=said.get("logits", {}), boxes=said.get("boxes", []),
        unasked=tuple(label for label, unknown in zip(labels, unasked, strict=True) if unknown),
    )  # fmt: skip
