"""Checkpoints that diffusers draws with: load one, choose its size and scheduler, and make the pipelines that share its weights."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tilth import models
from tilth.errors import InputError, ModelError
from tilth.extras import optional
from tilth.synth.draw.settings import SCHEDULERS


def load(cls: Any, name: str, dtype: Any) -> Any:
    """Load a pipeline or a part of one.

    Args:
        cls: Class of diffusers.
        name: Of the checkpoint.
        dtype: That its weights are held in.

    Raises:
        ModelError: It is absent or of another kind.
    """
    folder = models.locate(name)
    try:
        return cls.from_pretrained(folder, dtype=dtype, use_safetensors=True, local_files_only=True)
    except (OSError, ValueError, AttributeError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ModelError(f"{name}: cannot be loaded with {cls.__name__}: {reason}") from error


def core_of(pipeline: Any) -> Any:
    """Return the part of a pipeline that takes the noise away: its U-Net or transformer."""
    return getattr(pipeline, "unet", None) or pipeline.transformer


def size_of(pipeline: Any, wanted_wh: tuple[int, int], model: str) -> tuple[int, int]:
    """Return the size to draw in, the model's own where none is wanted.

    Raises:
        InputError: The model cannot draw in that size.
    """
    step = int(pipeline.vae_scale_factor)
    if not any(wanted_wh):
        side = int(core_of(pipeline).config.sample_size * step)
        return side, side
    if odd := [side for side in wanted_wh if side % step]:
        raise InputError(
            f"{model}: draws in steps of {step} pixels, got a size of {odd[0]}; take {round(odd[0] / step) * step}"
        )
    return wanted_wh


def schedule(pipeline: Any, name: str, model: str) -> None:
    """Let another scheduler take the steps, with the noise schedule that the model was trained with.

    Raises:
        ModelError: The scheduler is for other noise.
    """
    import diffusers

    own = pipeline.scheduler
    fitting = {type(own).__name__, *(each.__name__ for each in own.compatibles)}
    flows = type(own).__name__.startswith("FlowMatch")
    fitting |= (
        {each for each in SCHEDULERS if each.startswith("FlowMatch")} if flows else {"LCMScheduler", "TCDScheduler"}
    )
    if name not in fitting:
        known = ", ".join(each for each in SCHEDULERS if each in fitting)
        raise ModelError(f"{model}: its noise is not that of {name}; schedulers that fit it: {known}")
    with optional():
        pipeline.scheduler = getattr(diffusers, name).from_config(own.config)


def pipeline_for(verb: str, pipeline: Any, controlnets: Sequence[Any], model: str) -> Any:
    """Return the pipeline of a verb, which shares the weights of the first.

    Args:
        verb: `text`, `edges`, `image` or `inpaint`.
        pipeline: Draws from text.
        controlnets: That `edges` follows.
        model: Name of the checkpoint, for the message.

    Raises:
        ModelError: The model only draws into holes.
    """
    import diffusers

    channels = getattr(core_of(pipeline).config, "in_channels", 0)
    if verb != "inpaint" and channels > getattr(pipeline.vae.config, "latent_channels", channels):
        raise ModelError(
            f"{model}: has {channels} input channels and draws into holes only, not by {verb!r}; "
            "take another model, and name this one as parts: {inpainting: …}"
        )
    if verb == "edges":
        nets = controlnets[0] if len(controlnets) == 1 else list(controlnets)
        # the small autoencoder is not of the type it expects, and would be left out
        return diffusers.AutoPipelineForText2Image.from_pipe(pipeline, controlnet=nets, vae=pipeline.vae)
    if verb == "image":
        return diffusers.AutoPipelineForImage2Image.from_pipe(pipeline)
    return diffusers.AutoPipelineForInpainting.from_pipe(pipeline) if verb == "inpaint" else pipeline


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
