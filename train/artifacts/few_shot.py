"""A frozen encoder and what a few examples say, as an image classifier like any other: trained, judged, exported and served so.

Its logits are those of `tilth/encoders/few_shot.py`. What a method does not need is zero.
"""

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.nn import functional as F  # noqa: N812
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    Blip2ForImageTextRetrieval,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import ImageClassifierOutput

from tilth import models
from tilth.encoders.families import family_of
from tilth.encoders.few_shot import MODEL_TYPE
from tilth.train.artifacts.artifact import preprocessing

if TYPE_CHECKING:
    from collections.abc import Mapping

BLIP2 = "blip-2"  # the one family whose retrieval model is not found by itself
READS = ("text_model", "text_projection")  # parts that no image goes through
BLIP2_READS = ("text_projection", "embeddings", "itm_head", "language_model", "language_projection")


class FewShotConfig(PretrainedConfig):  # type: ignore[misc]  # transformers has no types for it
    """The shape of a few-shot classifier.

    Args:
        encoder: Settings of the encoder, as its own `config.json` has them.
        examples: Number of examples that it compares with, n; 0 when the linear part says all.
        vectors: Vectors of an image, q; those of one image lie side by side for examples and for the linear part.
        width: Of a vector, d.
    """

    model_type = MODEL_TYPE
    has_no_defaults_at_init = True

    def __init__(
        self,
        encoder: "Mapping[str, Any] | None" = None,
        *,
        examples: int = 0,
        vectors: int = 1,
        width: int = 1,
        **more: Any,
    ) -> None:
        self.encoder, self.examples, self.vectors, self.width = dict(encoder or {}), examples, vectors, width
        super().__init__(**more)


class FewShotClassifier(PreTrainedModel):  # type: ignore[misc]  # nor for this
    """See `tilth.encoders.few_shot`.

    Args:
        config: Its shape, k labels among it.
    """

    config_class: ClassVar[type[FewShotConfig]] = FewShotConfig
    main_input_name = "pixel_values"

    def __init__(self, config: FewShotConfig) -> None:
        super().__init__(config)
        self.encoder = seeing(config.encoder)
        flat, k = config.vectors * config.width, config.num_labels
        self.linear = torch.nn.Linear(flat, k)
        self.examples = torch.nn.Parameter(torch.zeros(config.examples, flat))
        self.says = torch.nn.Parameter(torch.zeros(config.examples, k))
        self.texts = torch.nn.Parameter(torch.zeros(k, config.width))
        self.words, self.sharpness = torch.nn.Parameter(torch.zeros(k)), torch.nn.Parameter(torch.zeros(()))
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Leave everything as it is: all of it is fitted or loaded."""

    def vectors(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the unit vectors of images `(n, 3, h, w)`, `(n, q, d)`."""
        model: Any = self.encoder
        if hasattr(model, "qformer"):
            states = model.vision_model(pixel_values=pixel_values)[0].float()
            queries = model.query_tokens.expand(
                states.shape[0], -1, -1
            )  # `len` would write the number of images into a graph
            mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
            seen = model.qformer(query_embeds=queries, encoder_hidden_states=states, encoder_attention_mask=mask)
            said = model.vision_projection(seen.last_hidden_state)
        else:
            out = (
                model.get_image_features(pixel_values=pixel_values)
                if hasattr(model, "get_image_features")
                else model(pixel_values=pixel_values)
            )
            said = (out if isinstance(out, torch.Tensor) else out.pooler_output)[:, None]
        return F.normalize(said.float(), dim=-1)

    def say(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the logits `(n, k)` of images by their vectors, `(n, q, d)`."""
        flat = vectors.flatten(1) / self.config.vectors**0.5  # of length one again
        alike = torch.exp(self.sharpness * (flat @ self.examples.T - 1))
        words = (vectors @ self.texts.T).amax(1)
        logits: torch.Tensor = self.linear(flat) + alike @ self.says + self.words * words
        return logits

    def forward(self, pixel_values: torch.Tensor, **_: Any) -> ImageClassifierOutput:
        """Return the logits of images, `(n, k)`."""
        return ImageClassifierOutput(logits=self.say(self.vectors(pixel_values)))


def around(name: str, n_labels: int) -> FewShotClassifier:
    """Return a classifier around an encoder, with nothing fitted to it yet.

    Args:
        name: Of the encoder, as a recipe writes it.
        n_labels: Of the classifier, k.

    Raises:
        ModelError: It is absent, or no encoder.
    """
    folder = models.locate(name)
    kind = Blip2ForImageTextRetrieval if family_of(name) == BLIP2 else AutoModel
    loaded = kind.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, local_files_only=True)
    config = FewShotConfig(loaded.config.to_dict(), num_labels=n_labels)
    config.vectors = getattr(loaded.config, "num_query_tokens", 1)
    model = FewShotClassifier(config)
    model.encoder = without_text(loaded)
    side, *_ = preprocessing(name)
    with torch.inference_mode():
        config.width = int(model.eval().vectors(torch.zeros(1, 3, side, side)).shape[-1])
    flat = config.vectors * config.width
    model.linear, model.examples = torch.nn.Linear(flat, n_labels), torch.nn.Parameter(torch.zeros(0, flat))
    return model


def seeing(told: "dict[str, Any]") -> torch.nn.Module:
    """Build the half of an encoder that sees, by its settings."""
    config = AutoConfig.for_model(**told)
    return without_text(
        Blip2ForImageTextRetrieval(config) if config.model_type == BLIP2 else AutoModel.from_config(config)
    )


def without_text(model: torch.nn.Module) -> torch.nn.Module:
    """Take the half away that no image goes through."""
    for name in BLIP2_READS if hasattr(model, "qformer") else READS:
        if hasattr(model, name):
            delattr(model, name)
    return model


AutoConfig.register(FewShotConfig.model_type, FewShotConfig)
AutoModelForImageClassification.register(FewShotConfig, FewShotClassifier)
