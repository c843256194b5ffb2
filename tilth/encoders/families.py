"""Images and texts as vectors that can be compared: which model families there are, and what each can do.

| family | an image has | texts | matching head |
|---|---|---|---|
| BLIP-2 | several query vectors (32 in the published model) | yes | yes |
| CLIP, MetaCLIP, SigLIP, SigLIP 2 | one vector | yes | no |
| DINOv2, DINOv3 | one vector | no: ask with example images | no |
"""

import importlib
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from tilth import models
from tilth.encoders.inputs import Inputs
from tilth.errors import InputError, ModelError
from tilth.images import Image

# model_type of a config -> the class that runs it
FAMILIES = {
    "blip-2": "tilth.encoders.blip2:Blip2",
    "clip": "tilth.encoders.contrastive:Contrastive",
    "metaclip_2": "tilth.encoders.contrastive:Contrastive",
    "siglip": "tilth.encoders.contrastive:Contrastive",
    "siglip2": "tilth.encoders.contrastive:Contrastive",
    "dinov2": "tilth.encoders.contrastive:Contrastive",
    "dinov2_with_registers": "tilth.encoders.contrastive:Contrastive",
    "dinov3_vit": "tilth.encoders.contrastive:Contrastive",
}

Backend = Literal["transformers", "lavis"]
Vectors = npt.NDArray[np.float16]
Texts = npt.NDArray[np.float32]


class Encoder(Protocol):
    """A model that turns images and texts into unit vectors of one space.

    Attributes:
        name: As a recipe writes it.
        digest: Of the weights; vectors of different digests cannot be compared.
        queries: Vectors per image, q.
        width: Dimensions of a vector, d.
        reads: Whether it knows texts.
        inputs: How images are made ready for it; `images` takes any size, but what `inputs` gives costs least.
    """

    name: str
    digest: str
    queries: int
    width: int
    reads: bool
    inputs: Inputs

    def images(self, images: Sequence[Image]) -> Vectors:
        """Return the unit vectors of images, `(n, q, d)`."""
        ...

    def texts(self, texts: Sequence[str]) -> Texts:
        """Return the unit vectors of texts, `(t, d)`.

        Raises:
            InputError: The model has no text tower.
        """
        ...

    def match(self, images: Sequence[Image], texts: Sequence[str]) -> Texts:
        """Return the probability that each text is true of each image, `(n, t)`; 0.5 throughout without a matching head."""
        ...


def family_of(name: str) -> str:
    """Return which family an encoder is of.

    Raises:
        ModelError: It is absent, or no encoder.
    """
    family = str(models.settings(name).get("model_type"))
    if family not in FAMILIES:
        raise ModelError(f"{name}: an encoder is of one of the families {', '.join(FAMILIES)}; this one is {family!r}")
    return family


def open_encoder(name: str, device: str = "auto", backend: Backend = "transformers") -> Encoder:
    """Load an encoder by the family that its config names.

    Args:
        name: Model name, as a recipe writes it.
        device: `auto`, `cpu`, `cuda`, …
        backend: `lavis` runs a BLIP-2 by Salesforce's own library, in an environment of its own.

    Raises:
        ModelError: The model is absent or of another family.
        InputError: The backend does not run this family, or its environment is missing.
        MissingExtra: transformers is not installed.
    """
    family = family_of(name)
    if backend == "lavis" and family != "blip-2":
        raise InputError(f"{name}: the backend lavis runs BLIP-2, this is {family}; leave `backend` out")
    module, _, cls = FAMILIES[family].partition(":")
    more = {"backend": backend} if family == "blip-2" else {}
    found: Encoder = getattr(importlib.import_module(module), cls)(name, device, **more)
    return found


def max_similarity(vectors: npt.NDArray[Any], texts: Texts) -> Texts:
    """Return the similarity of images and texts, the maximum over the query vectors, in [-1, 1].

    Args:
        vectors: Unit query vectors of images, `(n, q, d)`.
        texts: Unit vectors of texts, `(t, d)`.

    Returns:
        `(n, t)`.

    >>> image = np.array([[[1, 0], [0, 1]]], np.float16)
    >>> max_similarity(image, np.array([[0, 1], [-1, 0]], np.float32))
    array([[1., 0.]], dtype=float32)
    """
    n, q, d = vectors.shape
    every = vectors.reshape(n * q, d).astype(np.float32) @ texts.T
    best: Texts = every.reshape(n, q, len(texts)).max(1)
    return best
