"""Run GroundingDINO over images: one text, one size a batch, and for every box the phrase whose own tokens score best."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as PilImage

from tilth import models
from tilth.annotate.phrases import Prompt, Question, make_prompts, phrase_spans
from tilth.errors import InputError, ModelError
from tilth.extras import optional
from tilth.geometry import Box, clip
from tilth.images import Image

if TYPE_CHECKING:
    import torch

FAMILIES = ("grounding-dino", "mm-grounding-dino")


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep a library's bar out of the run's own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A box and its best phrase; `category` is empty when that phrase is a look-alike. `prompt` is the text's digest."""

    phrase: str
    category: str
    prompt: str
    score: float
    box_xyxy: Box


class Finder:
    """A grounding model with the questions of a policy.

    Args:
        model: Name of the model.
        asked: The questions.
        device: To run on.
        size_multiple: Sides are rounded to multiples of this.
        floor: Least score that is returned.

    Raises:
        ModelError: The model is absent, or of another family.
        InputError: The questions do not fit its text limit.
    """

    def __init__(
        self,
        model: str,
        asked: Sequence[Question],
        *,
        device: str = "auto",
        size_multiple: int = 32,
        floor: float = 0.1,
    ) -> None:
        with optional():
            import torch
            from transformers import AutoConfig, AutoModelForZeroShotObjectDetection, AutoProcessor

        folder = models.locate(model)
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        if config.model_type not in FAMILIES:
            raise ModelError(f"{model}: a {config.model_type!r}; grounding needs one of {', '.join(FAMILIES)}")
        processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True)
        self.device = models.device(device)
        # fp32: half formats move boxes near a threshold over it, and the time goes into gathering, not multiplying
        with _quietly():
            loaded = AutoModelForZeroShotObjectDetection.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True
            )
        self.model = loaded.to(self.device).eval()
        self.floor, self.size_multiple = floor, size_multiple
        self._sizes, self._tokenizer = _Sizes.of(processor.image_processor), processor.tokenizer
        limits = (config.max_text_len, config.text_config.max_position_embeddings, self._tokenizer.model_max_length)
        self.prompts = make_prompts(asked, lambda text: len(self._tokenizer(text).input_ids), min(limits))
        self._texts = [self._read(prompt) for prompt in self.prompts]

    def _read(self, prompt: Prompt) -> "tuple[dict[str, torch.Tensor], torch.Tensor]":
        """Tokenize a prompt; return the model's inputs and which tokens make up which phrase, `(phrases, tokens)`."""
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
        return {name: value.to(self.device) for name, value in read.items()}, weights.to(self.device)

    def find(self, images: Sequence[Image]) -> list[list[Seen]]:
        """Return what is seen in each image `(h, w, 3)`, best first; each image is treated as if it were alone."""
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, image in enumerate(images):
            groups[self._sizes.target((image.shape[1], image.shape[0]), self.size_multiple)].append(index)
        found: list[list[Seen]] = [[] for _ in images]
        for size_wh, indices in groups.items():
            pixels = np.stack([self._sizes.prepare(images[i], size_wh) for i in indices])
            for prompt, text in zip(self.prompts, self._texts, strict=True):
                boxes, scores = self._forward(pixels, *text)
                for i, box, score in zip(indices, boxes, scores, strict=True):
                    found[i] += self._seen(prompt, box, score, (images[i].shape[1], images[i].shape[0]))
        return [sorted(seen, key=lambda one: (-one.score, one.box_xyxy)) for seen in found]

    def _forward(self, pixels: Any, text: "dict[str, torch.Tensor]", weights: "torch.Tensor") -> tuple[Any, Any]:
        """Return boxes `(n, queries, 4)` as xyxy in parts of the image and scores `(n, queries, phrases)`."""
        import torch

        with torch.inference_mode():
            batch = {name: value.expand(len(pixels), -1) for name, value in text.items()}
            output = self.model(pixel_values=torch.from_numpy(pixels).to(self.device), **batch)
            tokens = output.logits[..., : weights.shape[1]].float().sigmoid()
            scores = tokens @ weights.T  # the mean over a phrase's own tokens
            middle, size = output.pred_boxes.float().split(2, dim=2)
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
            image = np.asarray(PilImage.fromarray(image).resize(size_wh, PilImage.Resampling.BILINEAR))
        scaled = (image.astype(np.float32) / 255 - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(scaled.transpose(2, 0, 1))
