"""BLIP-2 image-text retrieval: search by its query vectors, re-ranking by its matching head.

Paper: https://arxiv.org/abs/2301.12597 (section 3.2)
Implementation followed: `Blip2ForImageTextRetrieval.forward` of transformers, cut where a search engine needs it cut:
images are encoded once and for all, texts without images, and pairs share the image half.

An image has several query vectors (32 in the published model), a text has one; their similarity is the **maximum** of
the cosines, which is what the model was trained with. The mean of the query vectors is not a BLIP-2 embedding.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from tilth import models
from tilth.encoders.families import Backend, Texts, Vectors
from tilth.encoders.inputs import Inputs
from tilth.errors import ModelError
from tilth.extras import optional
from tilth.images import Image

if TYPE_CHECKING:
    import torch

PAIRS_AT_ONCE = 256  # image-text pairs in one forward pass of the matching head

Pixels = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int64]


class Heads(Protocol):
    """The network itself, between pixels and tokens on one side and vectors and probabilities on the other."""

    def images(self, pixels: Pixels) -> Texts:
        """Return unit query vectors `(n, q, d)` of pixels `(n, 3, h, w)`."""
        ...

    def texts(self, ids: Tokens, mask: Tokens) -> Texts:
        """Return unit vectors `(t, d)` of right-padded token ids `(t, length)`."""
        ...

    def match(self, pixels: Pixels, ids: Tokens, mask: Tokens) -> Texts:
        """Return the probability that each text is true of each image, `(n, t)`."""
        ...


class Blip2:
    """A BLIP-2 image-text retrieval model, ready to use; see `Encoder`.

    Args:
        name: Model name, as a recipe writes it.
        device: `auto`, `cpu`, `cuda`, …
        backend: Which library runs the network; both get the same pixels and tokens.

    Raises:
        ModelError: The model is absent or of another family.
        MissingExtra: transformers is not installed.
    """

    reads = True

    def __init__(self, name: str, device: str = "auto", backend: Backend = "transformers") -> None:
        with optional():
            from transformers import AutoProcessor
        folder = models.locate(name)
        config: dict[str, Any] = models.settings(name)
        if config.get("model_type") != "blip-2":
            raise ModelError(f"{name}: not a BLIP-2 image-text retrieval model but {config.get('model_type')!r}")
        self.name, self.digest = name, models.digest(name)
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        self._images, self._tokens = processor.image_processor, processor.tokenizer
        self.inputs = Inputs(self._images)
        self._heads: Heads
        if backend == "lavis":
            from tilth.encoders.lavis import LavisHeads

            self._heads = LavisHeads(folder, models.device(device))
        else:
            self._heads = TransformersHeads(folder, models.device(device))
        self._longest = int(config["qformer_config"].get("max_position_embeddings", 512))
        self.queries = int(config["num_query_tokens"])
        self.width = int(config["image_text_hidden_size"])

    def images(self, images: Sequence[Image]) -> Vectors:
        """Return the unit query vectors of images, `(n, q, d)`."""
        return self._heads.images(self._pixels(images)).astype(np.float16)

    def texts(self, texts: Sequence[str]) -> Texts:
        """Return the unit vectors of texts, `(t, d)`."""
        return self._heads.texts(*self._tokenize(texts))

    def match(self, images: Sequence[Image], texts: Sequence[str]) -> Texts:
        """Return the probability that each text is true of each image, `(n, t)`, from the matching head.

        Each image goes through the vision model once, however many texts there are.
        """
        return self._heads.match(self._pixels(images), *self._tokenize(texts))

    def _pixels(self, images: Sequence[Image]) -> Pixels:
        copies = [np.array(image) for image in images]  # torch wants arrays that it could write to
        pixels: Pixels = np.asarray(self._images(images=copies, return_tensors="np")["pixel_values"], np.float32)
        return pixels

    def _tokenize(self, texts: Sequence[str]) -> tuple[Tokens, Tokens]:
        tokens = self._tokens(list(texts), padding=True, truncation=True, max_length=self._longest, return_tensors="np")
        return tokens["input_ids"], tokens["attention_mask"]


class TransformersHeads:
    """The network by transformers."""

    def __init__(self, folder: Path, device: str) -> None:
        with optional():
            import torch
            from transformers import Blip2ForImageTextRetrieval
        self._torch = torch
        self._device = torch.device(device)
        self._dtype = getattr(torch, models.precision(device))
        # Weights stay float32 and autocast lowers the products: the Q-Former is not stable in half precision.
        model = Blip2ForImageTextRetrieval.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        self._model = model.to(self._device).eval()
        self._queries = int(model.config.num_query_tokens)

    def images(self, pixels: Pixels) -> Texts:
        """Return unit query vectors `(n, q, d)`."""
        with self._torch.inference_mode(), self._autocast():
            states = self._states(pixels)
            queries = self._model.query_tokens.expand(len(states), -1, -1)
            seen = self._model.qformer(
                query_embeds=queries, encoder_hidden_states=states, encoder_attention_mask=_ones(states)
            )
            vectors = self._model.vision_projection(seen.last_hidden_state).float()
            unit = self._torch.nn.functional.normalize(vectors, dim=-1)
        return self._out(unit)

    def texts(self, ids: Tokens, mask: Tokens) -> Texts:
        """Return unit vectors `(t, d)`, in float32 throughout: texts are few, and all images are compared with them."""
        with self._torch.inference_mode():
            words = self._model.embeddings(input_ids=self._in(ids))
            read = self._model.qformer(query_embeds=words, query_length=0, attention_mask=self._in(mask))
            vectors = self._model.text_projection(read.last_hidden_state[:, 0]).float()
            return self._out(self._torch.nn.functional.normalize(vectors, dim=-1))

    def match(self, pixels: Pixels, ids: Tokens, mask: Tokens) -> Texts:
        """Return the probability that each text is true of each image, `(n, t)`."""
        with self._torch.inference_mode(), self._autocast():
            states = self._states(pixels)
            words, seen = self._in(ids), self._in(mask)
            pairs = [(i, t) for i in range(len(states)) for t in range(len(words))]
            parts = []
            for start in range(0, len(pairs), PAIRS_AT_ONCE):
                rows, columns = (list(x) for x in zip(*pairs[start : start + PAIRS_AT_ONCE], strict=True))
                parts.append(self._match(states[rows], words[columns], seen[columns]))
        return self._out(self._torch.cat(parts).reshape(len(pixels), len(ids)))

    def _match(self, states: "torch.Tensor", ids: "torch.Tensor", mask: "torch.Tensor") -> "torch.Tensor":
        model = self._model
        queries = model.query_tokens.expand(len(states), -1, -1)
        read = model.qformer(
            query_embeds=model.embeddings(input_ids=ids, query_embeds=queries),
            query_length=self._queries,
            attention_mask=self._torch.cat([_ones(queries), mask], 1),
            encoder_hidden_states=states,
            encoder_attention_mask=_ones(states),
        )
        logits: torch.Tensor = model.itm_head(read.last_hidden_state[:, : self._queries]).float().mean(1)
        return logits.softmax(1)[:, 1]

    def _states(self, pixels: Pixels) -> "torch.Tensor":
        states: torch.Tensor = self._model.vision_model(pixel_values=self._in(pixels))[0]
        return states.float()

    def _in(self, values: npt.NDArray[Any]) -> "torch.Tensor":
        return self._torch.from_numpy(np.ascontiguousarray(values)).to(self._device)

    def _out(self, values: "torch.Tensor") -> Texts:
        found: Texts = values.float().cpu().numpy()
        return found

    def _autocast(self) -> Any:
        return self._torch.autocast(self._device.type, dtype=self._dtype, enabled=self._dtype != self._torch.float32)


def _ones(states: "torch.Tensor") -> "torch.Tensor":
    import torch

    return torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
