"""What an adapter learns from, batch by batch, and the loss on held-back images that ends it.

Latents are encoded once and kept in a file; so are the texts, in memory, unless their encoders learn.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tilth.engine.fit import Curve
from tilth.events import Advance
from tilth.images import Image
from tilth.synth.adapters.buckets import cut, nearest, sizes
from tilth.synth.adapters.choosing import Shown, digest
from tilth.synth.adapters.denoiser import Denoiser, Told
from tilth.synth.adapters.settings import Captions, Learning, Prior, Slice
from tilth.synth.draw.controls import edges_of

if TYPE_CHECKING:
    import torch

STREAM = 71  # of random numbers
LOOKS = 32  # noises that held-back images are judged under, of all images together


class Lesson:
    """Draws batches and judges.

    Args:
        denoiser: What learns.
        shown: The images, held-back ones and those of the prior among them.
        folder: Keeps the latents and the curve.
        seed: Of everything random.
        images: Shapes and mirroring.
        captions: How often none is told.
        learning: Batches and weights of the loss.
        prior: Share of the batches.
        learns_text: Whether text encoders learn, so that their answers cannot be kept.
        advance: Called as latents are encoded.
    """

    def __init__(
        self, denoiser: Denoiser, shown: Sequence[Shown], folder: Path, *, seed: int, images: Slice, captions: Captions,
        learning: Learning, prior: Prior, learns_text: bool, advance: Advance,
    ) -> None:  # fmt: skip
        self._denoiser, self._shown, self._seed = denoiser, shown, seed
        self._captions, self._learning = captions, learning
        pulled = denoiser.controlnet is not None
        self._along = [edges(views).to(denoiser.device) for views in self._views(images)] if pulled else []
        self._coded = self._encoded(folder / "latents.safetensors", images, advance)
        self.sizes = Counter(tuple(coded.shape[-1:-3:-1]) for coded in self._coded)  # width and height, in latents
        # their files are not needed any more, and may take gigabytes
        self.shown = self._shown = [replace(one, sample=replace(one.sample, data=b"")) for one in shown]
        self._texts = list(dict.fromkeys(["", *(text for one in shown for text in one.captions)]))
        self._places = {text: n for n, text in enumerate(self._texts)}
        self._told: Told | None = None if learns_text else denoiser.texts(self._texts)
        self._buckets: dict[tuple[int, ...], list[int]] = {}
        for n, one in enumerate(shown):
            if not one.val and not one.prior:
                self._buckets.setdefault(tuple(self._coded[n].shape), []).append(n)
        self._kept = [n for n, one in enumerate(shown) if one.prior]
        self._val = [n for n, one in enumerate(shown) if one.val]
        self._of_prior = 0
        if self._kept:
            self._of_prior = min(max(1, round(learning.batch_size * prior.share)), learning.batch_size - 1)
        self.curve = Curve(folder / "curve.jsonl")
        self.told: dict[str, float] = {}
        self._step, self._losses = 0, list[float]()

    def _encoded(self, path: Path, images: Slice, advance: Advance) -> "list[torch.Tensor]":
        """Encode all images, each with its mirror image where wanted, `(1 or 2, c, h, w)`; those that a killed run encoded are read."""
        from safetensors import safe_open
        from safetensors.torch import save_file

        named = f"{digest(self._shown)} {images.side}"
        if path.exists():
            with safe_open(path, framework="pt") as file:
                if (file.metadata() or {}).get("shown") == named:
                    advance(len(self._shown))
                    return [file.get_tensor(str(n)).to(self._denoiser.device) for n in range(len(self._shown))]
        found = []
        for views in self._views(images):
            found.append(self._denoiser.coded(signed(views)).float())
            advance(1)
        partial = path.with_suffix(".partial")
        held = {str(n): coded.contiguous().cpu() for n, coded in enumerate(found)}
        save_file(held, partial, metadata={"shown": named})
        partial.replace(path)
        return found

    def _views(self, images: Slice) -> Iterator[list[Image]]:
        """Yield each image in its shape, with its mirror image where wanted."""
        side = images.side or self._denoiser.side
        among = sizes(side, self._denoiser.step) if images.aspect == "keep" else [(side, side)]
        for one in self._shown:
            image = cut(one.sample.pixels(), nearest(one.sample.size_wh, among))
            yield [image, image[:, ::-1]] if images.mirror and not one.val else [image]

    def loss_at(self, step: int) -> "torch.Tensor":
        """Return the loss of a batch; it depends on the seed and the step alone."""
        import torch

        rng = np.random.default_rng((self._seed, STREAM, step))
        buckets = list(self._buckets.values())
        weights = np.array([len(each) for each in buckets], float)
        bucket = buckets[int(rng.choice(len(buckets), p=weights / weights.sum()))]
        size = self._learning.batch_size
        rows = [
            *rng.choice(bucket, size - self._of_prior),
            *(rng.choice(self._kept, self._of_prior) if self._kept else ()),
        ]
        groups: dict[tuple[int, ...], list[int]] = {}
        for row in rows:
            groups.setdefault(tuple(self._coded[row].shape[1:]), []).append(int(row))
        losses = []
        for some in groups.values():
            views = [(row, int(rng.integers(len(self._coded[row])))) for row in some]
            coded = torch.stack([self._coded[row][view] for row, view in views])
            clean = self._denoiser.latents(coded)
            texts = [
                "" if rng.random() < self._captions.drop else str(rng.choice(self._shown[r].captions)) for r in some
            ]
            noise, places = torch.randn(clean.shape).to(clean.device), self._denoiser.drawn_times(len(some))
            losses.append(
                self._denoiser.losses(
                    clean,
                    noise,
                    places.to(clean.device),
                    self._said(texts),
                    snr_gamma=self._learning.snr_gamma,
                    along=self._edges(views),
                )
            )
        loss = torch.cat(losses).mean()
        self._step = step // self._learning.accumulate + 1
        self._losses.append(loss.item())
        return loss

    def _edges(self, views: Sequence[tuple[int, int]]) -> "torch.Tensor | None":
        """Return the edges of images, or of their mirror images; None where no ControlNet pulls."""
        import torch

        return torch.stack([self._along[row][view] for row, view in views]) if self._along else None

    def _said(self, texts: Sequence[str]) -> Told:
        if self._told is None:
            return self._denoiser.texts(texts)
        chosen = [self._places[text] for text in texts]
        return {name: told[chosen] for name, told in self._told.items()}

    def val_loss(self) -> float:
        """Return the mean loss on held-back images, under the same noises at the same times whenever it is asked."""
        import torch

        looks = min(8, max(2, math.ceil(LOOKS / len(self._val))))
        generator, total = torch.Generator().manual_seed(STREAM), 0.0
        places = ((torch.arange(looks) + 0.5) / looks * self._denoiser.times).long().to(self._denoiser.device)
        for row in self._val:
            one = self._denoiser.latents(self._coded[row][:1], draw=False)
            noise = torch.randn((looks, *one.shape[1:]), generator=generator).to(one.device)
            with torch.no_grad():
                for start in range(0, looks, self._learning.batch_size):
                    some = slice(start, start + self._learning.batch_size)
                    count = len(places[some])
                    told = self._said([self._shown[row].captions[0]] * count)
                    clean = one.expand(count, -1, -1, -1)
                    along = self._edges([(row, 0)] * count)
                    total += float(self._denoiser.losses(clean, noise[some], places[some], told, along=along).sum())
        return total / (looks * len(self._val))

    def judge(self, weights: "Sequence[torch.Tensor]", averaged: "Sequence[torch.Tensor]", advance: Advance) -> float:
        """Score averaged weights on held-back images; larger is better."""
        with worn(weights, averaged):
            self.told["val_loss"] = self.val_loss()
        advance(0, **self.told)
        self.curve.note(self._step, loss=float(np.mean(self._losses)), **self.told)
        self._losses = []
        return -self.told["val_loss"]


def signed(images: Sequence[Image]) -> "torch.Tensor":
    """Turn images into `(n, 3, h, w)` float in [-1, 1]."""
    import torch

    return torch.from_numpy(np.stack(images).copy()).permute(0, 3, 1, 2).float() / 127.5 - 1


def edges(images: Sequence[Image]) -> "torch.Tensor":
    """Return the edges of images as a ControlNet takes them, `(n, 3, h, w)` in [0, 1]."""
    import torch

    found = [edges_of(np.ascontiguousarray(image), (image.shape[1], image.shape[0])) for image in images]
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).float() / 255


@contextmanager
def worn(weights: "Sequence[torch.Tensor]", others: "Sequence[torch.Tensor]") -> Iterator[None]:
    """Let weights have the values of others for a while."""
    import torch

    own = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight, other in zip(weights, others, strict=True):
            weight.copy_(other)
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, before in zip(weights, own, strict=True):
                weight.copy_(before)


def trainable(*parts: Any) -> "list[torch.nn.Parameter]":
    """Return what learns of networks, in their order, in float32."""
    import torch

    found = [weight for part in parts for weight in part.parameters() if weight.requires_grad]
    for weight in found:
        weight.data = weight.data.to(torch.float32)
    return found
