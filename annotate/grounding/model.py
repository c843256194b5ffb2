"""Ask a grounding model about images: one text, one size a batch, and for every box the phrase whose own tokens score best."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as PilImage

from tilth import models
from tilth.annotate.grounding import tiles
from tilth.annotate.grounding.phrases import Prompt, Question, make_prompts, phrase_spans
from tilth.annotate.grounding.ports import Text
from tilth.engine.job import batched
from tilth.engine.recipe import load_class
from tilth.errors import InputError, ModelError
from tilth.extras import optional
from tilth.geometry import Box, clip
from tilth.images import Image

if TYPE_CHECKING:
    import torch

PIXELS_ON_CPU = 150_000  # that one worker takes at once: a few small images, which its cache holds, or one large
SHARE_OF_MEMORY, BYTES_PER_PIXEL = 0.5, 2000  # of a GPU
BACKENDS = {
    "transformers": "tilth.annotate.grounding.ports:PortNetwork",
    "groundingdino-py": "tilth.annotate.grounding.package:PackageNetwork",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A box and its best phrase; `category` is empty when that phrase is a look-alike. `prompt` is the text's digest."""

    phrase: str
    category: str
    prompt: str
    score: float
    box_xyxy: Box


def precision_on(device: str) -> str:
    """Return the number format for a device; on a CPU float32, as bfloat16 gains a fifth and lets batches change scores."""
    return "float32" if device == "cpu" else models.precision(device)


def _pixels_at_once(device: str) -> int:
    """Return how many pixels go through the model at once."""
    if not device.startswith("cuda"):
        return PIXELS_ON_CPU
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return int(free * SHARE_OF_MEMORY / BYTES_PER_PIXEL)


@dataclass(frozen=True, slots=True)
class _View:
    """An image or a tile of it."""

    image: int
    tile: tiles.Tile

    @property
    def size_wh(self) -> tuple[int, int]:
        return self.tile[2] - self.tile[0], self.tile[3] - self.tile[1]

    def of(self, images: Sequence[Image]) -> Image:
        x0, y0, x1, y1 = self.tile
        return images[self.image][y0:y1, x0:x1]


Job = tuple[tuple[int, int], list[_View]]
Looked = list[tuple[_View, list[Seen]]]


class Finder:
    """A grounding model with the questions of a policy.

    Args:
        model: Name of the model.
        asked: The questions.
        backend: One of `BACKENDS`; all give the same boxes for the same weights.
        device: To run on.
        size_multiple: Sides are rounded to multiples of this.
        tiles_per_side: Look also at so many overlapping tiles a side.
        floor: Least score that is returned.
        precision: `float32`, `bfloat16` or `float16`; empty for what suits the device.

    Raises:
        ModelError: The model is absent, or of another family.
        InputError: The questions do not fit its text limit.
    """

    def __init__(
        self,
        model: str,
        asked: Sequence[Question],
        *,
        backend: str = "transformers",
        device: str = "auto",
        size_multiple: int = 32,
        tiles_per_side: int = 1,
        floor: float = 0.1,
        precision: str = "",
    ) -> None:
        with optional():
            import torch
            from transformers import AutoConfig, AutoProcessor

        folder = models.locate(model)
        self.device = models.device(device)
        self._network = load_class(BACKENDS, backend)(folder, model, self.device)
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True)
        self.floor, self.size_multiple, self.tiles = floor, size_multiple, tiles_per_side
        self._precision = precision or precision_on(self.device)
        self._workers = torch.get_num_threads() if self.device == "cpu" else 1
        self._pixels_at_once = _pixels_at_once(self.device)
        self._sizes, self._tokenizer = _Sizes.of(processor.image_processor), processor.tokenizer
        limits = (config.max_text_len, config.text_config.max_position_embeddings, self._tokenizer.model_max_length)
        self.prompts = make_prompts(asked, lambda text: len(self._tokenizer(text).input_ids), min(limits))
        self._texts = [self._read(prompt) for prompt in self.prompts]

    def _read(self, prompt: Prompt) -> "tuple[Text, torch.Tensor]":
        """Tokenize a prompt; return it with the shares of the tokens in the phrases, `(phrases, tokens)`."""
        import torch

        read = self._tokenizer(prompt.text, return_tensors="pt", return_offsets_mapping=True)
        offsets = read.pop("offset_mapping")[0].tolist()
        spans = phrase_spans(prompt, [(a, b) for a, b in offsets])
        unknown = self._tokenizer.unk_token_id
        ids = read["input_ids"][0].tolist()
        for phrase, span in zip(prompt.phrases, spans, strict=True):
            if all(ids[position] == unknown for position in span):
                raise InputError(f"policy: the model knows no word of the prompt {phrase!r}")
        weights = torch.zeros(len(spans), len(ids))
        for row, span in enumerate(spans):
            weights[row, span] = 1 / len(span)
        tokens = {name: value.to(self.device) for name, value in read.items()}
        return Text(caption=prompt.text, tokens=tokens), weights.to(self.device)

    def find(self, images: Sequence[Image]) -> list[list[Seen]]:
        """Return what is seen in each image `(h, w, 3)`, best first; each image is treated as if it were alone."""
        views = [_View(i, (0, 0, image.shape[1], image.shape[0])) for i, image in enumerate(images)]
        views += [_View(view.image, tile) for view in views for tile in tiles.cut(view.size_wh, self.tiles)]
        groups: dict[tuple[int, int], list[_View]] = defaultdict(list)
        for view in views:
            groups[self._sizes.target(view.size_wh, self.size_multiple)].append(view)
        jobs = [(size_wh, some) for size_wh, group in groups.items() for some in self._parts(size_wh, group)]
        found: list[list[Seen]] = [[] for _ in images]
        for view, seen in chain.from_iterable(self._each(lambda job: self._look(images, *job), jobs)):
            size_wh = (images[view.image].shape[1], images[view.image].shape[0])
            found[view.image] += [
                replace(one, box_xyxy=tiles.moved(one.box_xyxy, view.tile))
                for one in seen
                if tiles.whole(one.box_xyxy, view.tile, size_wh)
            ]
        return [sorted(seen, key=lambda one: (-one.score, one.box_xyxy)) for seen in found]

    def _parts(self, size_wh: tuple[int, int], group: "list[_View]") -> "Iterator[list[_View]]":
        """Cut a group into what goes through the model at once: a share for every worker, within the memory there is."""
        fits = max(1, self._pixels_at_once // (size_wh[0] * size_wh[1]))
        parts = max(self._workers, math.ceil(len(group) / fits))
        return batched(group, math.ceil(len(group) / parts))

    def _each(self, do: "Callable[[Job], Looked]", jobs: "list[Job]") -> "Iterable[Looked]":
        if self._workers == 1 or len(jobs) == 1:
            return map(do, jobs)
        import torch

        # the operations are too small to share between threads; whole batches are not
        with ThreadPoolExecutor(self._workers, initializer=lambda: torch.set_num_threads(1)) as pool:
            return list(pool.map(do, jobs))

    def _look(self, images: Sequence[Image], size_wh: tuple[int, int], views: "list[_View]") -> "Looked":
        pixels = np.stack([self._sizes.prepare(view.of(images), size_wh) for view in views])
        seen: list[list[Seen]] = [[] for _ in views]
        for prompt, text in zip(self.prompts, self._texts, strict=True):
            boxes, scores = self._forward(pixels, *text)
            for one, view, box, score in zip(seen, views, boxes, scores, strict=True):
                one += self._seen(prompt, box, score, view.size_wh)
        return list(zip(views, seen, strict=True))

    def _forward(self, pixels: Any, text: Text, weights: "torch.Tensor") -> tuple[Any, Any]:
        """Return boxes `(n, queries, 4)` as xyxy in parts of the image and scores `(n, queries, phrases)`."""
        import torch

        kind, low = torch.device(self.device).type, getattr(torch, self._precision)
        with torch.inference_mode():
            with torch.autocast(kind, low, enabled=low != torch.float32):
                logits, cxcywh = self._network(torch.from_numpy(pixels).to(self.device), text)
            tokens = logits[..., : weights.shape[1]].float().sigmoid()
            scores = tokens @ weights.T  # the mean over a phrase's own tokens
            middle, size = cxcywh.float().split(2, dim=2)
            boxes = torch.cat([middle - size / 2, middle + size / 2], 2)
        return boxes.cpu().numpy(), scores.cpu().numpy()

    def _seen(self, prompt: Prompt, boxes: Any, scores: Any, size_wh: tuple[int, int]) -> list[Seen]:
        best = scores.argmax(1)
        top = scores[np.arange(len(best)), best]
        placed = clip(boxes.astype(np.float64) * [*size_wh, *size_wh], size_wh)
        return [
            Seen(
                phrase=prompt.phrases[k],
                category=prompt.categories[k],
                prompt=prompt.digest,
                score=min(1.0, float(score)),
                box_xyxy=(float(box[0]), float(box[1]), float(box[2]), float(box[3])),
            )
            for k, score, box in zip(best, top, placed, strict=True)
            if score >= self.floor and box[0] + 0.01 < box[2] and box[1] + 0.01 < box[3]
        ]


@dataclass(frozen=True)
class _Sizes:
    """How a checkpoint wants its images: short side, long side at most, mean and deviation of the channels."""

    short: int
    long: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, processor: Any) -> "_Sizes":
        """Read a transformers image processor.

        Raises:
            ModelError: It resizes in a way that this code does not know.
        """
        size = dict(processor.size)
        if "shortest_edge" not in size or "longest_edge" not in size:
            raise ModelError(f"the image processor's size {size} is not shortest_edge and longest_edge")
        return cls(size["shortest_edge"], size["longest_edge"], tuple(processor.image_mean), tuple(processor.image_std))

    def target(self, size_wh: tuple[int, int], multiple: int) -> tuple[int, int]:
        """Return the size that an image is resized to: its short side to `short`, unless its long side would be too long."""
        scale = min(self.short / min(size_wh), self.long / max(size_wh))
        width, height = (max(multiple, round(side * scale / multiple) * multiple) for side in size_wh)
        return width, height

    def prepare(self, image: Image, size_wh: tuple[int, int]) -> Any:
        """Resize and normalise an image to `(3, h, w)` float32."""
        if image.shape[1::-1] != size_wh:
            image = np.asarray(
                PilImage.fromarray(np.ascontiguousarray(image)).resize(size_wh, PilImage.Resampling.BILINEAR)
            )
        scaled = (image.astype(np.float32) / 255 - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(scaled.transpose(2, 0, 1))
