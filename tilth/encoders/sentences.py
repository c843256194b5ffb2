"""Texts as vectors among texts: any encoder of transformers, the mean over its tokens, as sentence encoders are trained and used.

Paper: https://arxiv.org/abs/1908.10084 (Sentence-BERT)
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tilth import models
from tilth.encoders.families import Texts
from tilth.errors import ModelError
from tilth.extras import optional
from tilth.texts import uncovered

if TYPE_CHECKING:
    import torch

LONGEST = 512  # tokens; of a longer text its beginning counts


def readable(text: str) -> str:
    r"""Return a text as an encoder is to read it: without disguises where most of its letters are Latin, else as it is.

    >>> readable("W\u0456n B1G"), readable("\u041f\u0440\u0438\u0432\u0435\u0442")
    ('win big', 'Привет')
    """
    letters = [sign for sign in text if sign.isalpha()]
    plain = sum(sign.isascii() for sign in letters)
    return uncovered(text) if 2 * plain >= len(letters) else text


class Sentences:
    """A sentence encoder, ready to use.

    Args:
        name: Model name, as a recipe writes it.
        device: `auto`, `cpu`, `cuda`, …

    Attributes:
        digest: Of the weights; vectors of different digests cannot be compared.
        width: Dimensions of a vector, d.

    Raises:
        ModelError: The model is absent, or has no tokenizer.
        MissingExtra: transformers is not installed.
    """

    def __init__(self, name: str, device: str = "auto") -> None:
        with optional():
            import torch
            from transformers import AutoModel, AutoTokenizer
        folder = models.locate(name)
        self.name, self.digest = name, models.digest(name)
        self._torch = torch
        self._device = torch.device(models.device(device))
        try:
            self._tokens: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            opened = AutoModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{name}: no encoder of texts with a tokenizer: {error}") from error
        self._tokens.pad_token = self._tokens.pad_token or self._tokens.eos_token
        self._model = opened.to(self._device).eval()
        config = opened.config
        self.width = int(config.hidden_size)
        self._longest = min(LONGEST, int(getattr(config, "max_position_embeddings", LONGEST)))

    def __call__(self, texts: Sequence[str]) -> Texts:
        """Return the unit vectors of texts, `(n, d)`."""
        taken = self._tokens(
            [readable(text) or text for text in texts],
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=self._longest,
            return_tensors="pt",
        )
        inputs = {name: taken[name].to(self._device) for name in ("input_ids", "attention_mask")}
        with self._torch.inference_mode():
            found: Texts = self._mean(self._model(**inputs).last_hidden_state, inputs["attention_mask"]).cpu().numpy()
        return found

    def _mean(self, hidden: "torch.Tensor", mask: "torch.Tensor") -> "torch.Tensor":
        weight = mask[..., None].to(hidden.dtype)
        mean = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)
        return self._torch.nn.functional.normalize(mean.float(), dim=1)
