"""Encoders with one vector an image: CLIP, MetaCLIP, SigLIP and SigLIP 2, which read texts; DINOv2 and DINOv3, which do not.

Papers: https://arxiv.org/abs/2103.00020 (CLIP), https://arxiv.org/abs/2309.16671 (MetaCLIP),
https://arxiv.org/abs/2303.15343 (SigLIP), https://arxiv.org/abs/2502.14786 (SigLIP 2),
https://arxiv.org/abs/2304.07193 (DINOv2), https://arxiv.org/abs/2508.10104 (DINOv3)
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tilth import models
from tilth.encoders.families import Texts, Vectors
from tilth.encoders.inputs import Inputs
from tilth.encoders.words import Reader
from tilth.errors import InputError
from tilth.extras import optional
from tilth.images import Image

if TYPE_CHECKING:
    import torch


class Contrastive:
    """A model with one vector an image, ready to use; see `Encoder`.

    Args:
        name: Model name, as a recipe writes it.
        device: `auto`, `cpu`, `cuda`, …

    Raises:
        ModelError: The model is absent.
        MissingExtra: transformers is not installed, or a library that the model's tokenizer needs.
    """

    queries = 1

    def __init__(self, name: str, device: str = "auto") -> None:
        with optional():
            import torch
            from transformers import AutoImageProcessor, AutoModel
        folder = models.locate(name)
        config: dict[str, Any] = models.settings(name)
        self.name, self.digest = name, models.digest(name)
        self.reads = "text_config" in config
        self._torch = torch
        self._device = torch.device(models.device(device))
        self._dtype = getattr(torch, models.precision(str(self._device)))
        self._model = AutoModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        self._model = self._model.to(self._device).eval()
        self._images = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        self.inputs = Inputs(self._images)
        if self.reads:
            longest = int(self._model.config.text_config.max_position_embeddings)
            self._tokens = Reader(folder, str(config["model_type"]), longest)
        self.width = int(self.images([np.zeros((32, 32, 3), np.uint8)]).shape[-1])

    def images(self, images: Sequence[Image]) -> Vectors:
        """Return the unit vectors of images, `(n, 1, d)`."""
        copies = [np.array(image) for image in images]  # torch wants arrays that it could write to
        inputs = self._images(images=copies, return_tensors="pt").to(self._device)
        enabled = self._dtype != self._torch.float32
        with self._torch.inference_mode(), self._torch.autocast(self._device.type, self._dtype, enabled=enabled):
            unit = self._unit(self._model.get_image_features(**inputs) if self.reads else self._model(**inputs))
        found: Vectors = unit.cpu().numpy().astype(np.float16)[:, None]
        return found

    def texts(self, texts: Sequence[str]) -> Texts:
        """Return the unit vectors of texts, `(t, d)`.

        Raises:
            InputError: The model has no text tower.
        """
        if not self.reads:
            raise InputError(f"{self.name} knows no words; ask with example images, or take a model of the CLIP family")
        tokens = self._tokens(texts).to(self._device)
        with self._torch.inference_mode():
            unit = self._unit(self._model.get_text_features(**tokens))
        found: Texts = unit.cpu().numpy()
        return found

    def match(self, images: Sequence[Image], texts: Sequence[str]) -> Texts:
        """Return 0.5 throughout: there is no matching head, so similarity alone decides."""
        return np.full((len(images), len(texts)), 0.5, np.float32)

    def _unit(self, output: Any) -> "torch.Tensor":
        vectors: torch.Tensor = output if isinstance(output, self._torch.Tensor) else output.pooler_output
        return self._torch.nn.functional.normalize(vectors.float(), dim=-1)
