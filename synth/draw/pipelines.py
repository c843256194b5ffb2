"""Stable Diffusion behind four verbs: draw from words, along what control networks follow, from an image, and into a hole.

Paper: https://arxiv.org/abs/2112.10752 (Stable Diffusion), https://arxiv.org/abs/2302.05543 (ControlNet),
    https://arxiv.org/abs/2106.09685 (LoRA), https://arxiv.org/abs/2108.01073 (SDEdit, from an image)
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tilth import models
from tilth.errors import InputError, ModelError
from tilth.extras import optional
from tilth.images import Image, resize
from tilth.synth.draw.controls import Reader, load_control
from tilth.synth.draw.fitting import Adapters
from tilth.synth.draw.lengths import encoders, refuse_long
from tilth.synth.draw.loading import core_of, load, pipeline_for, quiet, schedule, size_of
from tilth.synth.draw.memory import is_full, let_go, settle
from tilth.synth.draw.settings import Drawing, Memory, Parts

Drawn: TypeAlias = Image | str
"""An image, or why there is none."""

BLACK = 8  # of 255; safety checkers answer with pure black
ONE_TONE = 2.0  # standard deviation, of 255


class Studio:
    """Loads a text-to-image checkpoint once and lends its parts to ControlNet, image to image and inpainting.

    Args:
        model: Name of a Stable Diffusion checkpoint, or of another family that diffusers draws from text with.
        parts: What is added to it; nothing when None.
        drawing: Whose scheduler and size to draw with; the model's own when None.
        memory: What is held where.
        device: `auto`, `cpu`, `cuda`, …
        tell: Called with a line when less is drawn at once than was asked for.

    Raises:
        ModelError: A checkpoint is absent or of another kind, or an adapter or control network was made for another model.
        InputError: The name or metadata of a model, adapter or control network asks for what is never generated, or the model cannot draw
            in that size.
    """

    def __init__(
        self,
        model: str,
        parts: Parts | None = None,
        *,
        drawing: Drawing | None = None,
        memory: Memory | None = None,
        device: str = "auto",
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        import torch

        with optional():
            from diffusers import AutoPipelineForInpainting, AutoPipelineForText2Image
        self.parts, self.model = parts or Parts(), model
        self.parts.refuse(model)
        self.device = models.device(device)
        precision = models.precision(self.device)
        # On a CPU the weights stay float32 and autocast picks what is safe in bfloat16; a GPU holds them as it computes.
        self._dtype = getattr(torch, precision) if self.device.startswith("cuda") else torch.float32
        self._autocast = self.device == "cpu" and precision == "bfloat16"
        self._pipelines: dict[str, Any] = {}
        self._memory, self._batch, self._tell = memory or Memory(), (drawing or Drawing()).batch_size, tell
        self.at_once = 0  # images; 0 for as many as are asked for
        with quiet():
            self.pipeline: Any = load(AutoPipelineForText2Image, model, self._dtype)
            core = core_of(self.pipeline)
            self._controlnets = [load_control(each, core, model, self._dtype) for each in self.parts.nets]
            self._reader = Reader(self.device)
            for control in self.parts.nets:
                self._reader.load(control)
            inpainting = self.parts.inpainting
            self._inpainting = load(AutoPipelineForInpainting, inpainting, self._dtype) if inpainting else None
            self._adapters = Adapters(self.pipeline, self.parts, model)
            self._inpainters = Adapters(self._inpainting, self.parts, inpainting) if inpainting else self._adapters
        self._encoders = {"inpaint": encoders(inpainting)} if inpainting else {}
        self._encoders[""] = encoders(model)
        self.size_wh = size_of(self.pipeline, (drawing or Drawing()).size_wh, model)
        for pipeline, whose in ((self.pipeline, model), (self._inpainting, inpainting)):
            if drawing and drawing.scheduler and pipeline:
                schedule(pipeline, drawing.scheduler, whose)
        self.scheduler = type(self.pipeline.scheduler).__name__

    def _pipeline(self, verb: str) -> Any:
        """Return the pipeline of a verb; all but that of another model for holes share the weights of the first.

        Raises:
            ModelError: The model only draws into holes.
        """
        if verb not in self._pipelines:
            with quiet():
                if verb == "inpaint" and self._inpainting:
                    made = self._inpainting
                else:
                    made = pipeline_for(verb, self.pipeline, self._controlnets, self.model)
                settle(made, self._memory, self.device, self.size_wh, self._batch)
            made.set_progress_bar_config(disable=True)
            self._pipelines[verb] = made
        return self._pipelines[verb]

    def _run(
        self,
        verb: str,
        prompts: Sequence[str],
        seeds: Sequence[int],
        drawing: Drawing,
        adapter: str,
        negatives: Sequence[str],
        each: Mapping[str, Sequence[Any]] | None = None,
        **extra: Any,
    ) -> list[Drawn]:
        """Draw images; as many at once as memory has room for.

        Args:
            verb: Whose pipeline draws.
            prompts: One an image.
            seeds: One an image.
            drawing: How to draw.
            adapter: That draws the style; empty for none.
            negatives: One an image, or none.
            each: Arguments of the pipeline that have one value an image.
            extra: Its other arguments.
        """
        told: dict[str, Sequence[Any]] = {
            "prompt": prompts, "negative_prompt": list(negatives) or [drawing.negative_prompt] * len(prompts),
            "seed": seeds, **(each or {}),
        }  # fmt: skip
        strength = extra.get("strength", 1.0)
        if int(drawing.steps * strength) < 1:
            least = int(np.ceil(1 / strength))
            raise InputError(f"{drawing.steps} steps at strength {strength:g} are none; take at least {least}")
        read = self._encoders.get(verb) or self._encoders[""]
        refuse_long({"prompts": prompts, "negative prompt": told["negative_prompt"]}, read, self.model)
        pipeline = self._pipeline(verb)
        (self._inpainters if verb == "inpaint" else self._adapters).use(adapter)
        drawn: list[Drawn] = []
        while len(drawn) < len(prompts):
            part = slice(len(drawn), len(drawn) + (self.at_once or len(prompts)))
            here = {name: list(values[part]) for name, values in told.items()}
            images = None
            try:
                images = self._call(pipeline, drawing, here, extra)
            except (MemoryError, RuntimeError) as error:
                if not is_full(error):
                    raise
            if images is None:  # out here nothing holds the failed batch any more
                self._halve(len(here["prompt"]))
            else:
                drawn += [finished(image) for image in images]
        return drawn

    def _call(self, pipeline: Any, drawing: Drawing, told: dict[str, list[Any]], extra: Mapping[str, Any]) -> Any:
        import torch

        # one generator an image, on the CPU, so that neither the batch nor the device changes an image's noise
        generators = [torch.Generator().manual_seed(seed) for seed in told.pop("seed")]
        negatives = told.pop("negative_prompt")
        known = inspect.signature(pipeline.__call__).parameters
        size = {"height": self.size_wh[1], "width": self.size_wh[0]}
        maps = told.get("image", [])
        if maps and isinstance(maps[0], list):  # of several control networks: one batch a network
            told["image"] = [torch.stack([_tensor(one) for one in of]) for of in zip(*maps, strict=True)]
        # without its cache: that would hold all weights a second time, for a twentieth of the time
        with quiet(), torch.autocast("cpu", torch.bfloat16, enabled=self._autocast, cache_enabled=False):
            return pipeline(
                **told,
                num_inference_steps=drawing.steps,
                guidance_scale=drawing.guidance,
                generator=generators,
                negative_prompt=negatives if any(negatives) else None,
                output_type="np",
                **{name: value for name, value in size.items() if name in known},
                **extra,
            ).images

    def _halve(self, tried: int) -> None:
        """Draw half as many at once from here on; say so.

        Raises:
            ModelError: It was one image alone.
        """
        let_go()
        wide, tall = self.size_wh
        if tried == 1:
            raise ModelError(
                f"{self.model}: there is no memory for a single image of {wide} x {tall} pixels; draw smaller ones, or set "
                "memory: {offload: layers, tiling: on}"
            )
        self.at_once = tried // 2
        self._tell(f"no memory for {tried} images of {wide} x {tall} pixels at once; goes on with {self.at_once}")

    def from_text(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        drawing: Drawing,
        adapter: str = "",
        negatives: Sequence[str] = (),
    ) -> list[Drawn]:
        """Draw one image a prompt; each has its own negative prompt where some are given, as with the other verbs."""
        return self._run("text", prompts, seeds, drawing, adapter, negatives)

    def along_edges(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        references: Sequence[Image],
        drawing: Drawing,
        adapter: str = "",
        negatives: Sequence[str] = (),
    ) -> list[Drawn]:
        """Draw images that follow the edges of references of the same shape, or what else control networks read off them."""
        from PIL import Image as PilImage

        nets = self.parts.nets
        if not nets:
            raise ModelError("drawing along edges needs a controlnet; name one in the step's settings")
        followed = [[self._reader.read(net, one, self.size_wh) for net in nets] for one in references]
        maps: list[Any] = [[PilImage.fromarray(one) for one in of] for of in followed]
        extra: dict[str, Any] = {"controlnet_conditioning_scale": [net.scale * drawing.control_scale for net in nets]}
        extra |= {f"control_guidance_{end}": [getattr(net, end) for net in nets] for end in ("start", "end")}
        if len(nets) == 1:
            maps, extra = [one for [one] in maps], {name: value for name, [value] in extra.items()}
        return self._run("edges", prompts, seeds, drawing, adapter, negatives, {"image": maps}, **extra)

    def from_images(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        references: Sequence[Image],
        drawing: Drawing,
        adapter: str = "",
        negatives: Sequence[str] = (),
    ) -> list[Drawn]:
        """Redraw references of the same shape: what is left of each after `strength` of the noise stays."""
        from PIL import Image as PilImage

        strength = drawing.strength_of("image")
        images = [PilImage.fromarray(resize(one, self.size_wh)) for one in references]
        return self._run("image", prompts, seeds, drawing, adapter, negatives, {"image": images}, strength=strength)

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
        """Draw into the white part of each mask `(height, width)` of a reference, whose rest stays as it is.

        Raises:
            InputError: A mask is of another size than what is drawn.
        """
        from PIL import Image as PilImage
        from PIL import ImageFilter

        if odd := [hole.shape for hole in holes if hole.shape != self.size_wh[::-1]]:
            wide, tall = self.size_wh
            raise InputError(f"a mask has the size of the drawing, {wide} x {tall}; got {odd[0][1]} x {odd[0][0]}")
        squares = [resize(reference, self.size_wh) for reference in references]
        masks = [PilImage.fromarray(hole) for hole in holes]
        images = [PilImage.fromarray(square) for square in squares]
        strength = drawing.strength_of("inpaint")
        each = {"image": images, "mask_image": masks}
        drawn = self._run("inpaint", prompts, seeds, drawing, adapter, negatives, each, strength=strength)
        # The rest comes back from the autoencoder a little changed: it is put back, softly, so that no seam gives it away.
        soft = [
            np.asarray(m.filter(ImageFilter.GaussianBlur(min(self.size_wh) / 48)), np.float32)[..., None] / 255
            for m in masks
        ]
        return [
            d if isinstance(d, str) else (d * m + s * (1 - m)).round().astype(np.uint8)
            for d, m, s in zip(drawn, soft, squares, strict=True)
        ]


def _tensor(image: Any) -> Any:
    """Turn a picture into a tensor `(3, h, w)` in [0, 1]."""
    import torch

    return torch.from_numpy(np.array(image, np.float32)).permute(2, 0, 1) / 255


def finished(pixels: npt.NDArray[np.floating]) -> Drawn:
    """Turn a pipeline's output `(h, w, 3)` in [0, 1] into an image, or say why it is none."""
    if not np.isfinite(pixels).all():
        return "not a number among the pixels; try another precision or fewer guidance"
    image: Image = (np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)
    if int(image.max()) < BLACK:
        return "black image, as a safety checker leaves it"
    return "image of one tone" if float(image.std()) < ONE_TONE else image


def weights_of(model: str) -> dict[str, str]:
    """Name a checkpoint with its digest, as provenance tells it."""
    return {"name": model, "digest": models.digest(model)}
