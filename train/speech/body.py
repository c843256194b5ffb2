"""A speech foundation model with little to learn beside it: LoRA, prompt frames, a weighted sum of its layers, and a head.

Papers: https://arxiv.org/abs/2106.09685 (LoRA), https://arxiv.org/abs/2203.12119 (prompts before the layers of an encoder),
https://arxiv.org/abs/2105.01051 (SUPERB: a weighted sum of frozen layers)
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tilth.errors import InputError, ModelError
from tilth.extras import optional
from tilth.train.speech.clips import RATE
from tilth.train.speech.settings import Tuning

# Class of model -> what LoRA lies beside. WavLM's attention reads the weights of its projections past any adapter.
BESIDE = {
    "hubert": ("q_proj", "v_proj", "intermediate_dense", "output_dense"),
    "wav2vec2": ("q_proj", "v_proj", "intermediate_dense", "output_dense"),
    "wavlm": ("intermediate_dense", "output_dense"),
    "whisper": ("q_proj", "v_proj", "fc1", "fc2"),
}
QUIET = {  # what would mask or leave out parts of its own accord
    "apply_spec_augment": False, "layerdrop": 0.0, "encoder_layerdrop": 0.0, "hidden_dropout": 0.0, "attention_dropout": 0.0,
    "activation_dropout": 0.0, "feat_proj_dropout": 0.0, "dropout": 0.0,
}  # fmt: skip


class Listener(nn.Module):
    """Hears which categories sound in clips of one length.

    Args:
        place: Folder of the speech model.
        categories: How many there are.
        tuning: What is learned.
        seed: Of what begins at random.

    Raises:
        ModelError: It is no speech model that can be tuned.
    """

    def __init__(self, place: Path, categories: int, tuning: Tuning, seed: int = 0) -> None:
        super().__init__()
        self.tuning = tuning
        torch.manual_seed(seed)
        body, self.kind = _opened(place)
        self._features = _features_of(place, self.kind)
        width, depth = int(body.config.hidden_size), len(_layers(body)) + 1
        self.frozen = tuning.body == "frozen"
        body.requires_grad_(not self.frozen)
        if self.frozen and tuning.lora_rank:
            with optional():
                from peft import LoraConfig, inject_adapter_in_model
            config = LoraConfig(
                r=tuning.lora_rank, lora_alpha=2 * tuning.lora_rank, target_modules=list(BESIDE[self.kind])
            )
            body = inject_adapter_in_model(config, body)
        self.body = body
        self.prompts = nn.Parameter(0.1 * torch.randn(tuning.prompts, width)) if tuning.prompts else None
        self.weights = nn.Parameter(torch.zeros(depth)) if tuning.layers == "weighted" else None
        self.norm = nn.LayerNorm(2 * width, elementwise_affine=False)
        self.head = nn.Linear(2 * width, categories)
        nn.init.zeros_(self.head.weight)
        nn.init.constant_(self.head.bias, -2.0)
        if tuning.prompts:
            _layers(self.body)[0].register_forward_pre_hook(self._prompted, with_kwargs=True)

    def _prompted(
        self, _: nn.Module, args: tuple[Any, ...], told: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Put the prompt frames before those of the sound, where the first layer takes them."""
        assert self.prompts is not None
        states = args[0] if args else told["hidden_states"]
        states = torch.cat([self.prompts.expand(len(states), -1, -1), states], 1)
        return ((states, *args[1:]), told) if args else (args, {**told, "hidden_states": states})

    def train(self, mode: bool = True) -> "Listener":
        """Let the body be as it is when it is used, unless all of it learns."""
        super().train(mode)
        if self.frozen:
            self.body.eval()
        return self

    def forward(self, waves: torch.Tensor) -> torch.Tensor:
        """Return the logits `(n, categories)` of clips at 16 kHz, `(n, samples)`."""
        states = self.body(self._features(waves), output_hidden_states=True).hidden_states
        least = min(each.shape[1] for each in states)
        kept = [each[:, each.shape[1] - least :] for each in states]  # without the prompts
        if self.weights is None:
            one = kept[-1]
        else:
            shares = self.weights.softmax(0)
            one = sum(
                share * nn.functional.layer_norm(each, each.shape[-1:])
                for share, each in zip(shares, kept, strict=True)
            )
        told: torch.Tensor = self.head(self.norm(torch.cat([one.mean(1), one.amax(1)], 1)))
        return told

    def learned(self) -> dict[str, torch.Tensor]:
        """Return what is learned, by name: all that an adapter file holds."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}

    def take(self, state: dict[str, torch.Tensor]) -> None:
        """Put back what was learned.

        Raises:
            ModelError: It was learned beside another model, or with another tuning.
        """
        own = self.learned()
        if set(own) != set(state) or any(own[name].shape != state[name].shape for name in own):
            raise ModelError(
                f"the adapter has {len(state)} tensors that this model and tuning do not have; what was it learned beside?"
            )
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(state[name])


def _opened(place: Path) -> tuple[Any, str]:
    """Open the encoder of a speech model, and return it with its kind."""
    with optional():
        from transformers import AutoConfig, AutoModel
    try:
        config = AutoConfig.from_pretrained(place)
    except (OSError, ValueError) as error:
        raise ModelError(f"{place}: no speech model: {str(error).splitlines()[0][:200]}") from error
    if config.model_type not in BESIDE:
        raise ModelError(f"{place}: a model of type {config.model_type}; those that hear are {', '.join(BESIDE)}")
    for name, value in QUIET.items():
        if hasattr(config, name):
            setattr(config, name, value)
    model = AutoModel.from_pretrained(place, config=config, dtype=torch.float32, use_safetensors=True)
    return (model.get_encoder() if config.model_type == "whisper" else model), config.model_type


def _layers(body: Any) -> Any:
    return body.layers if hasattr(body, "layers") else body.encoder.layers


def _features_of(place: Path, kind: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what turns waves into what the body takes: normalised waves, or for Whisper its log-mel frames."""
    if kind != "whisper":
        return normal
    from transformers import WhisperFeatureExtractor

    extract = WhisperFeatureExtractor.from_pretrained(place)

    def mels(waves: torch.Tensor) -> torch.Tensor:
        if waves.shape[1] > extract.n_samples:
            raise InputError(f"clips longer than the {extract.chunk_length} s of this model; give fewer seconds")
        found = extract(list(waves.cpu().numpy()), sampling_rate=RATE, return_tensors="pt").input_features
        return found.to(waves.device)  # type: ignore[no-any-return]

    return mels


def normal(waves: torch.Tensor) -> torch.Tensor:
    """Give each wave mean 0 and variance 1, as the feature extractors of these models do."""
    return (waves - waves.mean(1, keepdim=True)) / torch.sqrt(waves.var(1, keepdim=True, unbiased=False) + 1e-7)
