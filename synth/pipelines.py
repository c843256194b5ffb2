"""Stable Diffusion behind three verbs: draw from words, draw along edges, draw into a hole.

Paper: https://arxiv.org/abs/2112.10752 (Stable Diffusion), https://arxiv.org/abs/2302.05543 (ControlNet),
    https://arxiv.org/abs/2106.09685 (LoRA)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilth import models
from tilth.errors import ModelError
from tilth.extras import optional
from tilth.images import Image, resize
from tilth.synth.safety import refuse


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How to draw: denoising steps, guidance scale, and what to steer away from."""

    steps: int = 20
    guidance: float = 3.0
    negative_prompt: str = ""
    control_scale: float = 1.0
    strength: float = 1.0


class Studio:
    """Loads a text-to-image checkpoint once and lends its parts to ControlNet and inpainting.

    Args:
        model: Name of the Stable Diffusion checkpoint.
        controlnet: Name of a ControlNet for edges; empty for none.
        loras: Adapter name -> model name.
        device: `auto`, `cpu`, `cuda`, …

    Raises:
        ModelError: A checkpoint is absent or of another kind.
        InputError: An adapter's name asks for what is never generated.
    """

    def __init__(self, model: str, controlnet: str, loras: Mapping[str, str], device: str) -> None:
        import torch

        with optional():
            from diffusers import ControlNetModel, StableDiffusionPipeline
        refuse({f"adapter {name}": f"{name} {where}" for name, where in loras.items()} | {"controlnet": controlnet})
        self.device = models.device(device)
        self._bf16 = models.precision(self.device) == "bfloat16"
        try:
            self.pipeline: Any = StableDiffusionPipeline.from_pretrained(
                models.locate(model), torch_dtype=torch.float32, use_safetensors=True, local_files_only=True
            ).to(self.device)
            self.controlnet: Any = None
            if controlnet:
                folder = models.locate(controlnet)
                self.controlnet = ControlNetModel.from_pretrained(folder, torch_dtype=torch.float32, use_safetensors=True)
                self.controlnet.to(self.device)
        except (OSError, ValueError) as error:
            raise ModelError(f"{model}: cannot be loaded as Stable Diffusion: {str(error).splitlines()[0]}") from error
        for name, lora in loras.items():
            self.pipeline.load_lora_weights(models.locate(lora), adapter_name=name)
        self._adapters = tuple(loras)
        self.pipeline.set_progress_bar_config(disable=True)
        self.side = int(self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor)

    def _use(self, adapter: str) -> None:
        if self._adapters:
            self.pipeline.set_adapters([adapter] if adapter else [], [1.0] if adapter else None) if adapter else None
            self.pipeline.enable_lora() if adapter else self.pipeline.disable_lora()

    def _run(self, pipeline: Any, prompts: Sequence[str], seeds: Sequence[int], drawing: Drawing, **extra: Any) -> list[Image]:
        import torch

        pipeline.set_progress_bar_config(disable=True)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]  # one an image, so batches change nothing
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self._bf16):
            images = pipeline(
                list(prompts), num_inference_steps=drawing.steps, guidance_scale=drawing.guidance, generator=generators,
                negative_prompt=[drawing.negative_prompt] * len(prompts) if drawing.negative_prompt else None,
                height=self.side, width=self.side, output_type="np", **extra,
            ).images  # fmt: skip
        return [(np.nan_to_num(image) * 255).round().astype(np.uint8) for image in images]

    def from_text(self, prompts: Sequence[str], seeds: Sequence[int], drawing: Drawing, adapter: str = "") -> list[Image]:
        """Draw one square image a prompt."""
        self._use(adapter)
        return self._run(self.pipeline, prompts, seeds, drawing)

    def along_edges(
        self, prompts: Sequence[str], seeds: Sequence[int], references: Sequence[Image], drawing: Drawing, adapter: str = ""
    ) -> list[Image]:
        """Draw images that follow the edges of references."""
        with optional():
            from controlnet_aux import CannyDetector
            from diffusers import StableDiffusionControlNetPipeline
        from PIL import Image as PilImage

        if self.controlnet is None:
            raise ModelError("drawing along edges needs a controlnet; name one in the step's settings")
        self._use(adapter)
        pipeline = StableDiffusionControlNetPipeline(**self.pipeline.components, controlnet=self.controlnet, requires_safety_checker=False)
        detector = CannyDetector()
        squares = [resize(reference, (self.side, self.side)) for reference in references]
        edges = [
            PilImage.fromarray(np.asarray(detector(s, detect_resolution=self.side, image_resolution=self.side, output_type="np")))
            for s in squares
        ]
        edges = [edge.convert("RGB").resize((self.side, self.side)) for edge in edges]
        return self._run(pipeline, prompts, seeds, drawing, image=edges, controlnet_conditioning_scale=drawing.control_scale)

    def into_holes(
        self, prompts: Sequence[str], seeds: Sequence[int], crops: Sequence[Image], holes: Sequence[Image], drawing: Drawing,
        adapter: str = "",
    ) -> list[Image]:
        """Redraw the white part of each mask `(side, side)` in its crop; the rest of the crop stays as it is."""
        with optional():
            from diffusers import StableDiffusionInpaintPipeline
        from PIL import Image as PilImage

        self._use(adapter)
        pipeline = StableDiffusionInpaintPipeline(**self.pipeline.components, requires_safety_checker=False)
        squares = [resize(crop, (self.side, self.side)) for crop in crops]
        drawn = self._run(
            pipeline, prompts, seeds, drawing, image=[PilImage.fromarray(s) for s in squares],
            mask_image=[PilImage.fromarray(h) for h in holes], strength=drawing.strength,
        )  # fmt: skip
        keep = [(hole == 0)[..., None] for hole in holes]
        return [np.where(k, s, d).astype(np.uint8) for k, s, d in zip(keep, squares, drawn, strict=True)]


def blank(image: Image) -> str:
    """Say why an image is no picture: black, as safety checkers leave it, or all of one tone; empty when it is one."""
    if int(image.max()) < 8:
        return "black image, as a safety checker leaves it"
    return "image of one tone" if float(image.std()) < 2 else ""
