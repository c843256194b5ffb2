"""What a few examples and words say of an image, by its vectors alone: the arithmetic of a few-shot classifier, without its encoder.

logits = linear(image) + Σ over the examples of exp(-sharpness · (1 - cos)) · says + words · cos(image, text)

`train.few_shot` fits it, and its classifier is this behind an encoder; `mine` asks a corpus by it, whose vectors it has.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tilth.encoders.families import max_similarity
from tilth.errors import ModelError

MODEL_TYPE = "tilth-few-shot"  # in the configuration of such a classifier

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What was fitted, for images of q vectors of width d, and k labels.

    Args:
        weight: `(k, q·d)`.
        bias: `(k,)`.
        examples: `(n, q·d)`; none for a Gaussian.
        says: `(n, k)`.
        sharpness: How near an example must be to count.
        words: What the text of each label counts, `(k,)`.
    """

    weight: Floats
    bias: Floats
    examples: Floats
    says: Floats
    words: Floats
    sharpness: float = 0.0

    def __call__(self, vectors: npt.NDArray[Any], texts: Floats) -> Floats:
        """Return the logits `(n, k)` of images by their unit vectors `(n, q, d)`, and of the texts of the labels `(k, d)`."""
        flat = side_by_side(vectors)
        found = flat @ self.weight.T + self.bias + self.words * max_similarity(vectors, texts)
        if len(self.examples):
            found += np.exp(self.sharpness * (flat @ self.examples.T - 1)) @ self.says
        return np.asarray(found, np.float32)

    def scaled(self, slopes: Floats, offsets: Floats, words: Floats) -> "Fitted":
        """Return it with each logit times a slope and moved, and with what the texts count, all `(k,)`."""
        weight, bias = self.weight * slopes[:, None], self.bias * slopes + offsets
        return replace(self, weight=weight, bias=bias, says=self.says * slopes, words=words)


def side_by_side(vectors: npt.NDArray[Any]) -> Floats:
    """Return a vector of length one an image, `(n, q·d)`, of unit vectors `(n, q, d)`."""
    n, q, d = vectors.shape
    return np.asarray(vectors.reshape(n, q * d), np.float32) / np.float32(q**0.5)


@dataclass(frozen=True, kw_only=True)
class FewShotScores:
    """A few-shot classifier for images whose vectors are known.

    Args:
        labels: In the order of the logits.
        base: The encoder, with the digest of its weights.
        fitted: What was fitted.
        texts: Of the labels, `(k, d)`.
    """

    labels: tuple[str, ...]
    base: str
    fitted: Fitted
    texts: Floats

    @classmethod
    def load(cls, folder: Path) -> "FewShotScores":
        """Read what `train.few_shot` left.

        Raises:
            ModelError: It is no such classifier.
        """
        from safetensors import safe_open

        try:
            about, config = (json.loads((folder / name).read_text()) for name in ("tilth.json", "config.json"))
            if config["model_type"] != MODEL_TYPE:
                raise ModelError(
                    f"{folder}: a few-shot classifier is wanted, as train.few_shot leaves; this is {config['model_type']!r}"
                )
            names = ("linear.weight", "linear.bias", "examples", "says", "words", "texts", "sharpness")
            with safe_open(folder / "model.safetensors", "numpy") as weights:
                weight, bias, examples, says, words, texts, sharpness = (weights.get_tensor(name) for name in names)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{folder}: no few-shot classifier, as train.few_shot leaves: {error}") from error
        fitted = Fitted(weight=weight, bias=bias, examples=examples, says=says, words=words, sharpness=float(sharpness))
        return cls(labels=tuple(about["labels"]), base=str(about["base"]), fitted=fitted, texts=texts)

    def __call__(self, vectors: npt.NDArray[Any]) -> Floats:
        """Return the logits of images, `(n, k)`, by their unit vectors, `(n, q, d)`."""
        return self.fitted(vectors, self.texts)
