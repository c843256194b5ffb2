"""Stable Diffusion behind three verbs: draw from words, draw along edges, draw into a hole.

Paper: https://arxiv.org/abs/2112.10752 (Stable Diffusion), https://arxiv.org/abs/2302.05543 (ControlNet),
    https://arxiv.org/abs/2106.09685 (LoRA)
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tilth import models
from tilth.errors import InputError, ModelError
from tilth.extras import optional
from tilth.images import Image, resize
from tilth.synth.draw.fitting import Adapters
from tilth.synth.draw.lengths import encoders, refuse_long
from tilth.synth.draw.settings import SCHEDULERS, Drawing, Parts

Drawn: TypeAlias = Image | str
"""An image, or why there is none."""

BLACK = 8  # of 255; safety checkers answer with pure black
ONE_TONE = 2.0  # standard deviation, of 255


class Studio:
    """Loads a text-to-image checkpoint once and lends its parts to ControlNet and inpainting.

    Args:
        model: Name of a Stable Diffusion checkpoint, or of another family that diffusers draws from text with.
        parts: What is added to it; nothing when None.
        drawing: Whose scheduler and size to draw with; the model's own when None.
        device: `auto`, `cpu`, `cuda`, …

    Raises:
        ModelError: A checkpoint is absent or of another kind, or an adapter was made for another model.
        InputError: The name or metadata of a model, adapter or control network asks for what is never generated, or the model cannot draw
            in that size.
    """

    def __init__(
        self,
        model: str,
        parts: Parts | None = None,
        *,
        drawing: Drawing | None = None,
        device: str = "auto",
    ) -> None:
        import torch

        with optional():
            from diffusers import AutoPipelineForText2Image
        self.parts = parts or Parts()
        self.parts.refuse(model)
        self.device = models.device(device)
        precision = models.precision(self.device)
        # On a CPU the weights stay float32 and autocast picks what is safe in bfloat16; a GPU holds them as it computes.
        self._dtype = getattr(torch, precision) if self.device.startswith("cuda") else torch.float32
        self._autocast = self.device == "cpu" and precision == "bfloat16"
        self._pipelines: dict[str, Any] = {}
        with quiet():
            self.pipeline: Any = self._load(AutoPipelineForText2Image, model).to(self.device)
            self._controlnet: Any = self._load_controlnet(self.parts.controlnet) if self.parts.controlnet else None
            self._adapters = Adapters(self.pipeline, self.parts, model)
        self.model, self._encoders = model, encoders(model)
        self.size_wh = self._size((drawing or Drawing()).size_wh)
        if drawing and drawing.scheduler:
            self._schedule(drawing.scheduler)
        self.scheduler = type(self.pipeline.scheduler).__name__

    def _load(self, cls: Any, name: str) -> Any:
        folder = models.locate(name)
        try:
            return cls.from_pretrained(folder, dtype=self._dtype, use_safetensors=True, local_files_only=True)
        except (OSError, ValueError, AttributeError) as error:
            reason = (str(error).splitlines() or [""])[0]
            raise ModelError(f"{name}: cannot be loaded with {cls.__name__}: {reason}") from error

    def _load_controlnet(self, name: str) -> Any:
        from diffusers import ControlNetModel

        return self._load(ControlNetModel, name).to(self.device)

    def _size(self, wanted_wh: tuple[int, int]) -> tuple[int, int]:
        """Return the size to draw in, the model's own where none is wanted."""
        step = int(self.pipeline.vae_scale_factor)
        if not any(wanted_wh):
            core = getattr(self.pipeline, "unet", None) or self.pipeline.transformer
            side = int(core.config.sample_size * step)
            return side, side
        if odd := [side for side in wanted_wh if side % step]:
            raise InputError(
                f"{self.model}: draws in steps of {step} pixels, got a size of {odd[0]}; take {round(odd[0] / step) * step}"
            )
        return wanted_wh

    def _schedule(self, name: str) -> None:
        """Let another scheduler take the steps, with the noise schedule that the model was trained with."""
        import diffusers

        own = self.pipeline.scheduler
        fitting = {type(own).__name__, *(each.__name__ for each in own.compatibles)}
        flows = type(own).__name__.startswith("FlowMatch")
        fitting |= (
            {each for each in SCHEDULERS if each.startswith("FlowMatch")} if flows else {"LCMScheduler", "TCDScheduler"}
        )
        if name not in fitting:
            known = ", ".join(each for each in SCHEDULERS if each in fitting)
            raise ModelError(f"{self.model}: its noise is not that of {name}; schedulers that fit it: {known}")
        with optional():
            self.pipeline.scheduler = getattr(diffusers, name).from_config(own.config)

    def _pipeline(self, verb: str) -> Any:
        """Return the pipeline of a verb; all share the weights of the first."""
        from diffusers import AutoPipelineForInpainting, AutoPipelineForText2Image

        if verb not in self._pipelines:
            with quiet():
                if verb == "edges":
                    # the small autoencoder is not of the type it expects, and would be left out
                    made = AutoPipelineForText2Image.from_pipe(
                        self.pipeline, controlnet=self._controlnet, vae=self.pipeline.vae
                    )
                else:
                    made = AutoPipelineForInpainting.from_pipe(self.pipeline) if verb == "inpaint" else self.pipeline
            made.set_progress_bar_config(disable=True)
            self._pipelines[verb] = made
        return self._pipelines[verb]

    def _run(
        self,
        verb: str,
        prompts: Sequence[str],
        seeds: Sequence[int],
        drawing: Drawing,
        negatives: Sequence[str],
        **extra: Any,
    ) -> list[Drawn]:
        import torch

        negatives = list(negatives) or [drawing.negative_prompt] * len(prompts)
        refuse_long({"prompts": prompts, "negative prompt": negatives}, self._encoders, self.model)
        # one generator an image, on the CPU, so that neither the batch nor the device changes an image's noise
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        # without its cache: that would hold all weights a second time, for a twentieth of the time
        with quiet(), torch.autocast("cpu", torch.bfloat16, enabled=self._autocast, cache_enabled=False):
            images = self._pipeline(verb)(
                list(prompts),
                num_inference_steps=drawing.steps,
                guidance_scale=drawing.guidance,
                generator=generators,
                negative_prompt=negatives if any(negatives) else None,
                height=self.size_wh[1],
                width=self.size_wh[0],
                output_type="np",
                **extra,
            ).images
        return [finished(image) for image in images]

    def from_text(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        drawing: Drawing,
        adapter: str = "",
        negatives: Sequence[str] = (),
    ) -> list[Drawn]:
        """Draw one image a prompt; each has its own negative prompt where some are given, as with the other verbs."""
        self._adapters.use(adapter)
        return self._run("text", prompts, seeds, drawing, negatives)

    def along_edges(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        references: Sequence[Image],
        drawing: Drawing,
        adapter: str = "",
        negatives: Sequence[str] = (),
    ) -> list[Drawn]:
        """Draw images that follow the edges of references of the same shape."""
        from PIL import Image as PilImage

        if self._controlnet is None:
            raise ModelError("drawing along edges needs a controlnet; name one in the step's settings")
        self._adapters.use(adapter)
        edges = [PilImage.fromarray(edges_of(reference, self.size_wh)) for reference in references]
        return self._run(
            "edges",
            prompts,
            seeds,
            drawing,
            negatives,
            image=edges,
            controlnet_conditioning_scale=drawing.control_scale,
        )

    def into_holes(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        references: Sequence[Image],
        holes: Sequence[Image],
        drawing: Drawing,
        adapter: str = "",
        negatives: Sequence[str] = (),
    ) -> list[Drawn]:
        """Draw into the white part of each mask `(height, width)` of a reference, whose rest stays as it is."""
        from PIL import Image as PilImage
        from PIL import ImageFilter

        self._adapters.use(adapter)
        squares = [resize(reference, self.size_wh) for reference in references]
        masks = [PilImage.fromarray(hole) for hole in holes]
        drawn = self._run(
            "inpaint",
            prompts,
            seeds,
            drawing,
            negatives,
            image=[PilImage.fromarray(s) for s in squares],
            mask_image=masks,
            strength=drawing.strength,
        )
        # The rest comes back from the autoencoder a little changed: it is put back, softly, so that no seam gives it away.
        soft = [
            np.asarray(m.filter(ImageFilter.GaussianBlur(min(self.size_wh) / 48)), np.float32)[..., None] / 255
            for m in masks
        ]
        return [
            d if isinstance(d, str) else (d * m + s * (1 - m)).round().astype(np.uint8)
            for d, m, s in zip(drawn, soft, squares, strict=True)
        ]


def finished(pixels: npt.NDArray[np.floating]) -> Drawn:
    """Turn a pipeline's output `(h, w, 3)` in [0, 1] into an image, or say why it is none."""
    if not np.isfinite(pixels).all():
        return "not a number among the pixels; try another precision or fewer guidance"
    image: Image = (np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)
    if int(image.max()) < BLACK:
        return "black image, as a safety checker leaves it"
    return "image of one tone" if float(image.std()) < ONE_TONE else image


def edges_of(reference: Image, size_wh: tuple[int, int]) -> Image:
    """Return the Canny edges of an image, white on black, in another size."""
    with optional(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its import runs all detectors' modules, which warn of what they miss
        from controlnet_aux import CannyDetector
    wide, tall = (max(64, round(side / 64) * 64) for side in size_wh)  # the detector only knows multiples of 64
    found = CannyDetector()(
        resize(reference, (wide, tall)),
        low_threshold=100,
        high_threshold=200,
        detect_resolution=min(wide, tall),
        image_resolution=min(wide, tall),
        output_type="np",
    )
    return resize(np.asarray(found, np.uint8), size_wh)


def weights_of(model: str) -> dict[str, str]:
    """Name a checkpoint with its digest, as provenance tells it."""
    return {"name": model, "digest": models.digest(model)}


@contextmanager
def quiet() -> Iterator[None]:
    """Keep diffusers from logging: it writes the cut-off parts of prompts, which do not belong into logs."""
    from diffusers.utils import logging
    from transformers.utils import logging as more_logging

    more_logging.disable_progress_bar()
    before, more_before = logging.get_verbosity(), more_logging.get_verbosity()
    for each in (logging, more_logging):  # what is an error comes as an exception, too
        each.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        more_logging.set_verbosity(more_before)
        logging.enable_progress_bar()
        more_logging.enable_progress_bar()
