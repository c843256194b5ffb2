"""Images and texts in the space of BLIP-2: search by its query vectors, re-ranking by its matching head.

Paper: https://arxiv.org/abs/2301.12597 (section 3.2)
Implementation followed: `Blip2ForImageTextRetrieval.forward` of transformers, cut where a search engine needs it cut:
images are encoded once and for all, texts without images, and pairs share the image half.

An image has several query vectors (32 in the published model), a text has one; their similarity is the **maximum** of
the cosines, which is what the model was trained with. The mean of the query vectors is not a BLIP-2 embedding.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tilth import models
from tilth.errors import ModelError
from tilth.extras import optional
from tilth.images import Image

if TYPE_CHECKING:
    import torch

PAIRS_AT_ONCE = 256  # image-text pairs in one forward pass of the matching head


def max_similarity(vectors: npt.NDArray[Any], texts: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
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
    best: npt.NDArray[np.float32] = every.reshape(n, q, len(texts)).max(1)
    return best


class Encoder:
    """A BLIP-2 image-text retrieval model, ready to use.

    Args:
        name: Model name, as a recipe writes it.
        device: `auto`, `cpu`, `cuda`, …

    Attributes:
        digest: Of the weights; vectors of different digests cannot be compared.
        queries: Query vectors per image, q.
        width: Dimensions of a vector, d.

    Raises:
        ModelError: The model is absent or of another family.
        MissingExtra: transformers is not installed.
    """

    def __init__(self, name: str, device: str = "auto") -> None:
        with optional():
            import torch
            from transformers import AutoProcessor, Blip2ForImageTextRetrieval
        folder = models.locate(name)
        family = models.settings(name).get("model_type")
        if family != "blip-2":
            raise ModelError(f"{name}: mining needs a BLIP-2 image-text retrieval model, this one is {family!r}")
        self.name, self.digest = name, models.digest(name)
        self._torch = torch
        self._device = torch.device(models.device(device))
        self._dtype = getattr(torch, models.precision(str(self._device)))
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        self._images, self._tokens = processor.image_processor, processor.tokenizer
        # Weights stay float32 and autocast lowers the products: the Q-Former is not stable in half precision.
        model = Blip2ForImageTextRetrieval.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        self._model = model.to(self._device).eval()
        self._longest = int(model.config.qformer_config.max_position_embeddings)
        self.queries = int(model.config.num_query_tokens)
        self.width = int(model.config.image_text_hidden_size)

    def images(self, images: Sequence[Image]) -> npt.NDArray[np.float16]:
        """Return the unit query vectors of images, `(n, q, d)`."""
        with self._torch.inference_mode(), self._autocast():
            states = self._states(images)
            queries = self._model.query_tokens.expand(len(states), -1, -1)
            seen = self._model.qformer(
                query_embeds=queries, encoder_hidden_states=states, encoder_attention_mask=_ones(states)
            )
            vectors = self._model.vision_projection(seen.last_hidden_state).float()
            unit = self._torch.nn.functional.normalize(vectors, dim=-1)
        found: npt.NDArray[np.float16] = unit.cpu().numpy().astype(np.float16)
        return found

    def texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the unit vectors of texts, `(t, d)`.

        In float32 throughout: texts are few, and all images are compared with them.
        """
        with self._torch.inference_mode():
            ids, mask = self._tokenize(texts)
            words = self._model.embeddings(input_ids=ids)
            read = self._model.qformer(query_embeds=words, query_length=0, attention_mask=mask)
            vectors = self._model.text_projection(read.last_hidden_state[:, 0]).float()
            unit = self._torch.nn.functional.normalize(vectors, dim=-1)
        found: npt.NDArray[np.float32] = unit.cpu().numpy()
        return found

    def match(self, images: Sequence[Image], texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the probability that each text is true of each image, `(n, t)`, from the matching head.

        Each image goes through the vision model once, however many texts there are.
        """
        with self._torch.inference_mode(), self._autocast():
            states = self._states(images)
            ids, mask = self._tokenize(texts)
            pairs = [(i, t) for i in range(len(images)) for t in range(len(texts))]
            parts = []
            for start in range(0, len(pairs), PAIRS_AT_ONCE):
                rows, columns = (list(x) for x in zip(*pairs[start : start + PAIRS_AT_ONCE], strict=True))
                parts.append(self._match(states[rows], ids[columns], mask[columns]))
        found: npt.NDArray[np.float32] = self._torch.cat(parts).cpu().numpy().reshape(len(images), len(texts))
        return found

    def _match(self, states: "torch.Tensor", ids: "torch.Tensor", mask: "torch.Tensor") -> "torch.Tensor":
        model = self._model
        queries = model.query_tokens.expand(len(states), -1, -1)
        read = model.qformer(
            query_embeds=model.embeddings(input_ids=ids, query_embeds=queries),
            query_length=self.queries,
            attention_mask=self._torch.cat([_ones(queries), mask], 1),
            encoder_hidden_states=states,
            encoder_attention_mask=_ones(states),
        )
        logits: torch.Tensor = model.itm_head(read.last_hidden_state[:, : self.queries]).float().mean(1)
        return logits.softmax(1)[:, 1]

    def _states(self, images: Sequence[Image]) -> "torch.Tensor":
        copies = [np.array(image) for image in images]  # torch wants arrays that it could write to
        pixels = self._images(images=copies, return_tensors="pt")["pixel_values"].to(self._device)
        states: torch.Tensor = self._model.vision_model(pixel_values=pixels)[0]
        return states.float()

    def _tokenize(self, texts: Sequence[str]) -> "tuple[torch.Tensor, torch.Tensor]":
        tokens = self._tokens(
            list(texts), padding=True, truncation=True, max_length=self._longest, return_tensors="pt"
        ).to(self._device)
        return tokens["input_ids"], tokens["attention_mask"]

    def _autocast(self) -> Any:
        return self._torch.autocast(self._device.type, dtype=self._dtype, enabled=self._dtype != self._torch.float32)


def _ones(states: "torch.Tensor") -> "torch.Tensor":
    import torch

    return torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
