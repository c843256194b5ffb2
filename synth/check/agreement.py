"""Ask a classifier of an earlier training whether generated images show what was asked for."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tilth import models
from tilth.encoders.families import open_encoder
from tilth.encoders.few_shot import MODEL_TYPE, FewShotScores
from tilth.encoders.fusion import finite, sigmoid
from tilth.engine.steps import step
from tilth.errors import ModelError
from tilth.extras import optional
from tilth.images import Image, into
from tilth.samples import Result, Sample

AGREES = "adherence.agrees"
Logits = np.ndarray[Any, Any]


@step
class Agree:
    """Measure with which chance a classifier gives the category that was asked for.

    Args:
        classifier: Folder that `train.classifier` or `train.few_shot` left.
        encoder: Of a few-shot classifier, which has none of its own.
        device: `auto`, `cpu`, `cuda`, …
        batch_size: Images per call.
    """

    classifier: str
    encoder: str = ""
    device: str = "auto"
    batch_size: int = 32

    def models(self) -> tuple[str, ...]:
        """Name the classifier, and the encoder where it asks one."""
        return (self.classifier, *([self.encoder] if self.encoder else ()))

    def load(self) -> Callable[[Sequence[Sample]], list[Result]]:
        """Load the classifier.

        Raises:
            ModelError: It is not one that Tilth trained, or was fitted to another encoder.
        """
        folder = Path(self.classifier)
        try:
            about = json.loads((folder / "tilth.json").read_text())
            kind = json.loads((folder / "config.json").read_text()).get("model_type")
        except (OSError, ValueError) as error:
            raise ModelError(f"{folder}: not a classifier that Tilth trained: {error}") from error
        labels = list(about["labels"])
        logits = self._few_shot(folder) if kind == MODEL_TYPE else self._fine_tuned(folder, about)

        def measure(samples: Sequence[Sample]) -> list[Result]:
            chances = sigmoid(finite(logits([sample.pixels() for sample in samples]), "the classifier"))
            asked = [str(sample.origin.get("category")) for sample in samples]
            return [
                Result(columns={AGREES: round(float(row[labels.index(name)]), 4)} if name in labels else {})
                for row, name in zip(chances, asked, strict=True)
            ]

        return measure

    def _few_shot(self, folder: Path) -> Callable[[Sequence[Image]], Logits]:
        scores = FewShotScores.load(folder)
        ours = models.source(self.encoder) if self.encoder else "none"
        if scores.base.rpartition("@")[2] != ours.rpartition("@")[2]:
            raise ModelError(
                f"classifier {folder}: fitted to vectors of {scores.base}, and the encoder here is {ours}; name that one"
            )
        encoder = open_encoder(self.encoder, self.device)
        return lambda images: scores(encoder.images([encoder.inputs.shrink(image) for image in images]))

    def _fine_tuned(self, folder: Path, about: dict[str, Any]) -> Callable[[Sequence[Image]], Logits]:
        with optional():
            import torch
            from transformers import AutoModelForImageClassification
        device, side = models.device(self.device), int(about["side"])
        model: Any = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
        model = model.to(device).eval()
        fits = getattr(model.config, "image_size", side) == side
        more = {} if fits else {"interpolate_pos_encoding": True}
        mean, std = (np.array(about[name], np.float32) for name in ("mean", "std"))

        def logits(images: Sequence[Image]) -> Logits:
            square = [into(image, (side, side), keep_aspect=bool(about.get("keep_aspect"))) for image in images]
            pixels = (np.stack(square).astype(np.float32) / 255 - mean) / std
            with torch.inference_mode():
                given = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).to(device)
                found: Logits = model(pixel_values=given, **more).logits.float().cpu().numpy()
            return found

        return logits
