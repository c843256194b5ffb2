"""What learns of a text-to-image model, the U-Net or the transformer, behind one face for all families.

Paper: https://arxiv.org/abs/2112.10752 (Stable Diffusion), https://arxiv.org/abs/2307.01952 (XL), https://arxiv.org/abs/2403.03206 (3)
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tilth import models
from tilth.errors import ModelError
from tilth.extras import optional
from tilth.synth.draw.controls import load_control
from tilth.synth.draw.loading import core_of, load, quiet
from tilth.synth.draw.settings import Control

if TYPE_CHECKING:
    import torch

Told = dict[str, "torch.Tensor"]
"""What texts became: `states` (n, tokens, width), and `pooled` (n, width) where a model wants that."""

FAMILIES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusion3Pipeline")
TEXTS_AT_ONCE = 16
SMALL = 50_000_000  # weights, below which a model is a miniature


class Denoiser:
    """A text-to-image model as training sees it, all of it frozen.

    Args:
        model: Name of the checkpoint.
        device: `auto`, `cpu`, `cuda`, …
        controlnet: That pulls as it is trained; empty for none.

    Raises:
        ModelError: One is absent, the model is of a family that adapters are not trained for, or made for inpainting, or the ControlNet
            was made for another.
    """

    def __init__(self, model: str, device: str = "auto", controlnet: str = "") -> None:
        import torch

        with optional():
            from diffusers import AutoPipelineForText2Image, DDPMScheduler, FlowMatchEulerDiscreteScheduler
        self.model, self.device = model, models.device(device)
        precision = models.precision(self.device)
        # as in `Studio`: on a CPU the weights stay float32 and autocast picks what is safe in bfloat16
        dtype = getattr(torch, precision) if self.device.startswith("cuda") else torch.float32
        self._half = getattr(torch, precision) if precision != "float32" else None
        with quiet():
            self.pipeline: Any = load(AutoPipelineForText2Image, model, dtype).to(self.device)
        self.family = type(self.pipeline).__name__
        if self.family not in FAMILIES:
            known = ", ".join(name.removesuffix("Pipeline") for name in FAMILIES)
            raise ModelError(
                f"{model}: adapters are trained for {known}; this is {self.family.removesuffix('Pipeline')}"
            )
        self.core: Any = core_of(self.pipeline)
        self._coder = self.pipeline.vae.config
        own, coded = self.core.config.in_channels, self._coder.latent_channels
        if own != coded:
            raise ModelError(f"{model}: takes {own} channels instead of {coded}, as for inpainting; train on its base")
        for part in self.pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                part.requires_grad_(False).eval()
        with quiet():
            self.pipeline.vae.to(torch.float32)  # those of large models overflow in less
        scale = int(self.pipeline.vae_scale_factor)
        self.side, self.step = int(self.core.config.sample_size * scale), scale * self._halvings()
        self.weights = sum(weight.numel() for weight in self.core.parameters())
        self.controlnet: Any = self._load_controlnet(controlnet, dtype) if controlnet else None
        self._flows = type(self.pipeline.scheduler).__name__.startswith("FlowMatch")
        scheduler = FlowMatchEulerDiscreteScheduler if self._flows else DDPMScheduler
        self._schedule: Any = scheduler.from_config(self.pipeline.scheduler.config)
        self.times = int(self._schedule.config.num_train_timesteps)

    def _load_controlnet(self, name: str, dtype: "torch.dtype") -> Any:
        if not hasattr(self.pipeline, "unet"):
            raise ModelError(f"{self.model}: adapters learn along edges in a U-Net alone; leave the controlnet out")
        with quiet():
            net = load_control(Control(net=name), self.core, self.model, dtype)
        return net.to(self.device).requires_grad_(False).eval()

    def _halvings(self) -> int:
        """Return how many latents a side must be a multiple of."""
        blocks = getattr(self.core.config, "down_block_types", None)
        return 2 ** (len(blocks) - 1) if blocks else int(self.core.config.patch_size)

    @property
    def encoders(self) -> dict[str, Any]:
        """The text encoders that an adapter can be for, by name."""
        names = ("text_encoder", "text_encoder_2")
        return {name: part for name in names if (part := getattr(self.pipeline, name, None)) is not None}

    def coded(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """Encode images `(n, 3, h, w)` in [-1, 1]: means of latents, and behind them their spreads where the encoder has some."""
        import torch

        with torch.no_grad():
            coded = self.pipeline.vae.encode(pixels.to(self.device))
        if hasattr(coded, "latents"):  # the small autoencoder
            latents: torch.Tensor = coded.latents
            return latents
        return torch.cat([coded.latent_dist.mean, coded.latent_dist.std], 1)

    def latents(self, coded: "torch.Tensor", *, draw: bool = True) -> "torch.Tensor":
        """Draw latents `(n, c, h, w)` of what `coded` returned, of unit variance; their means when not drawn."""
        import torch

        config = self._coder
        if coded.shape[1] > config.latent_channels:
            mean, spread = coded.chunk(2, 1)
            coded = mean + spread * torch.randn(mean.shape).to(mean.device) if draw else mean
        scaled: torch.Tensor = (coded - (getattr(config, "shift_factor", None) or 0.0)) * config.scaling_factor
        return scaled

    def texts(self, texts: Sequence[str]) -> Told:
        """Encode texts."""
        import torch

        found: list[Told] = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            some, more = list(texts[start : start + TEXTS_AT_ONCE]), {"device": self.device, "num_images_per_prompt": 1}
            with quiet():
                if self.family == "StableDiffusionPipeline":
                    states, _ = self.pipeline.encode_prompt(some, do_classifier_free_guidance=False, **more)
                    found.append({"states": states})
                    continue
                others = {"prompt_2": None} | ({"prompt_3": None} if self.family == "StableDiffusion3Pipeline" else {})
                states, _, pooled, _ = self.pipeline.encode_prompt(
                    some, do_classifier_free_guidance=False, **others, **more
                )
                found.append({"states": states, "pooled": pooled})
        told = {name: torch.cat([each[name] for each in found]) for name in found[0]}
        if getattr(
            self.pipeline.config, "force_zeros_for_empty_prompt", False
        ):  # what guidance compares with in drawing
            empty = torch.tensor([not text for text in texts], device=self.device)
            told = {k: v.masked_fill(empty.view(-1, *[1] * (v.dim() - 1)), 0) for k, v in told.items()}
        return told

    def let_go(self, *, texts: bool) -> None:
        """Free the autoencoder, and the text encoders as well when all texts are encoded."""
        self.pipeline.vae = None
        for name in ("text_encoder", "text_encoder_2", "text_encoder_3") if texts else ():
            if hasattr(self.pipeline, name):
                setattr(self.pipeline, name, None)

    def drawn_times(self, n: int) -> "torch.Tensor":
        """Draw n places in the noise schedule: all alike, or the middle more often for models that follow a flow."""
        import torch

        if self._flows:
            return (torch.sigmoid(torch.randn(n)) * self.times).long()
        return torch.randint(0, self.times, (n,))

    def losses(
        self,
        clean: "torch.Tensor",
        noise: "torch.Tensor",
        places: "torch.Tensor",
        told: Told,
        *,
        snr_gamma: float = 0.0,
        along: "torch.Tensor | None" = None,
    ) -> "torch.Tensor":
        """Return how far the model is from what it should say of noisy latents, `(n,)`.

        Args:
            clean: Latents `(n, c, h, w)`.
            noise: The same, drawn from a normal distribution.
            places: In the noise schedule, `(n,)`.
            told: Of their captions.
            snr_gamma: Largest signal-to-noise ratio that counts in full; 0 weighs all times alike.
            along: Edges that the ControlNet pulls along, `(n, 3, height, width)` in [0, 1]; None without one.
        """
        import torch

        noisy, times, wanted = self._noisy(clean, noise, places)
        with torch.autocast(
            torch.device(self.device).type, self._half or torch.bfloat16, enabled=self._half is not None
        ):
            said = self._said(noisy, times, told, along)
        losses: torch.Tensor = (said.float() - wanted.float()).pow(2).mean((1, 2, 3))
        if snr_gamma and not self._flows:
            signal = self._schedule.alphas_cumprod.to(places.device)[places]
            snr = signal / (1 - signal)
            kind = self._schedule.config.prediction_type
            losses = losses * snr.clamp(max=snr_gamma) / {"v_prediction": snr + 1, "epsilon": snr}.get(kind, 1.0)
        return losses

    def _noisy(self, clean: Any, noise: Any, places: Any) -> tuple[Any, Any, Any]:
        """Return noisy latents, the times that the model is told, and what it should answer."""
        if self._flows:
            sigmas = self._schedule.sigmas[places.cpu()].to(clean.device, clean.dtype).view(-1, 1, 1, 1)
            times = self._schedule.timesteps[places.cpu()].to(clean.device)
            return (1 - sigmas) * clean + sigmas * noise, times, noise - clean
        noisy = self._schedule.add_noise(clean, noise, places)
        kinds: dict[str, Callable[[], Any]] = {
            "epsilon": lambda: noise,
            "v_prediction": lambda: self._schedule.get_velocity(clean, noise, places),
            "sample": lambda: clean,
        }
        return noisy, places, kinds[self._schedule.config.prediction_type]()

    def _said(self, noisy: Any, times: Any, told: Told, along: Any = None) -> Any:
        import torch

        noisy, states = noisy.to(self.core.dtype), told["states"].to(self.core.dtype)
        if self.family == "StableDiffusion3Pipeline":
            pooled = told["pooled"].to(self.core.dtype)
            return self.core(
                hidden_states=noisy, timestep=times, encoder_hidden_states=states, pooled_projections=pooled
            ).sample
        added: dict[str, Any] = {}
        if getattr(self.core.config, "addition_embed_type", None) == "text_time":
            high, wide = (int(side * self.pipeline.vae_scale_factor) for side in noisy.shape[2:])
            shape = torch.tensor([high, wide, 0, 0, high, wide], dtype=states.dtype, device=states.device)
            added = {"text_embeds": told["pooled"].to(self.core.dtype), "time_ids": shape.expand(len(noisy), -1)}
        told_core = {"encoder_hidden_states": states, "added_cond_kwargs": added or None}
        if along is not None:  # what the ControlNet says depends on nothing that learns
            with torch.no_grad():
                down, middle = self.controlnet(
                    noisy, times, controlnet_cond=along.to(noisy.dtype), return_dict=False, **told_core
                )
            told_core |= {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        return self.core(noisy, times, **told_core).sample
