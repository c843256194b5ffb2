"""Control networks: what each follows, what reads that off an image, and whether it fits the model.

Paper: https://arxiv.org/abs/2302.05543 (ControlNet)

Canny edges and plain line art are found without weights. Depth is read by any depth estimator of `transformers`; soft edges (HED), line
art, normals (NormalBae) and pose (OpenPose) by the detectors of `controlnet_aux`, whose weights have to be a safetensors file, as pickled
ones are never loaded.
"""

import io
import json
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from typing import Any

import numpy as np

from tilth import models
from tilth.errors import ModelError
from tilth.extras import optional
from tilth.images import Image, resize
from tilth.synth.draw.loading import load
from tilth.synth.draw.settings import Control

# Of the settings of a control network those that must be the model's.
SHARED = ("in_channels", "cross_attention_dim", "block_out_channels", "addition_embed_type", "joint_attention_dim")
STEP = 64  # pixels; detectors only know multiples of it

Detector = Callable[..., Any]


def load_control(control: Control, core: Any, model: str, dtype: Any) -> Any:
    """Load a control network.

    Args:
        control: Which.
        core: The U-Net or transformer that it is to steer.
        model: Name of that one's checkpoint, for the message.
        dtype: That its weights are held in.

    Raises:
        ModelError: It is none, or was made for a model of another kind or size.
    """
    import diffusers

    path = models.locate(control.net) / "config.json"
    told = json.loads(path.read_text()) if path.exists() else {}
    name = str(told.get("_class_name", ""))
    if not name.endswith("ControlNetModel") or not hasattr(diffusers, name):
        raise ModelError(
            f"{control.net}: a control network was expected, this is {name or 'none that diffusers knows'}"
        )
    if wrong := misfit(told, core.config):
        raise ModelError(f"{control.net}: was made for another model than {model}: {wrong}")
    if ("UNet" in type(core).__name__) is not (name == "ControlNetModel"):
        raise ModelError(f"{control.net}: is a {name}, which does not steer the {type(core).__name__} of {model}")
    return load(getattr(diffusers, name), control.net, dtype)


def misfit(net: Mapping[str, Any], core: Mapping[str, Any]) -> str:
    """Say in which settings a control network differs from the model that it is to steer; empty when it fits."""
    both = [name for name in SHARED if name in net and name in core]
    odd = [name for name in both if _plain(net[name]) != _plain(core[name])]
    return ", ".join(f"{name} is {_plain(net[name])} where the model has {_plain(core[name])}" for name in odd)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


class Reader:
    """Reads off images what control networks follow; a detector's weights are loaded once.

    Args:
        device: `cpu`, `cuda`, …
    """

    def __init__(self, device: str = "cpu") -> None:
        self._device = device
        self._detectors: dict[tuple[str, str], Detector] = {}

    def load(self, control: Control) -> Detector:
        """Load the detector of a control network.

        Raises:
            ModelError: Its weights are absent, or those of another model.
        """
        key = (control.kind, control.detector)
        if key not in self._detectors:
            with optional(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # its import runs all detectors' modules, which warn of what they miss
                import controlnet_aux  # noqa: F401
            opened = _depth if control.kind == "depth" else _open
            with redirect_stdout(io.StringIO()):  # one prints what it builds
                self._detectors[key] = opened(control, self._device)
        return self._detectors[key]

    def read(self, control: Control, reference: Image, size_wh: tuple[int, int]) -> Image:
        """Return what a control network is to follow of an image, in another size."""
        wide, tall = (max(STEP, round(side / STEP) * STEP) for side in size_wh)
        side = min(wide, tall)
        told: dict[str, Any] = {"detect_resolution": side, "output_type": "np"}
        if control.kind == "canny":
            told |= {"low_threshold": 100, "high_threshold": 200}
        if control.kind == "pose":
            told |= {"include_body": True, "include_hand": False, "include_face": False}
        if control.kind != "lineart" or control.detector:
            told["image_resolution"] = side
        found = np.asarray(self.load(control)(resize(reference, (wide, tall)), **told), np.uint8)
        return resize(found, size_wh)


def edges_of(reference: Image, size_wh: tuple[int, int]) -> Image:
    """Return the Canny edges of an image, white on black, in another size."""
    return Reader().read(Control(net="any"), reference, size_wh)


def _open(control: Control, device: str) -> Detector:
    """Open a detector of `controlnet_aux`."""
    import controlnet_aux as aux

    if control.kind == "canny":
        return aux.CannyDetector()  # type: ignore[no-any-return]
    if not control.detector:
        return aux.LineartStandardDetector()  # type: ignore[no-any-return]
    if control.kind == "softedge":
        from controlnet_aux.hed import ControlNetHED_Apache2

        return aux.HEDdetector(_weighted(ControlNetHED_Apache2(), control, device))  # type: ignore[no-any-return]
    if control.kind == "lineart":
        from controlnet_aux.lineart import Generator

        net = _weighted(Generator(3, 1, 3), control, device)
        return aux.LineartDetector(net, net)  # type: ignore[no-any-return]
    if control.kind == "normal":
        from types import SimpleNamespace

        from controlnet_aux.normalbae import NNET

        told = SimpleNamespace(
            mode="client", architecture="BN", pretrained="scannet", sampling_ratio=0.4, importance_ratio=0.7
        )
        return aux.NormalBaeDetector(_weighted(NNET(told), control, device))  # type: ignore[no-any-return]
    from controlnet_aux.open_pose.body import Body, bodypose_model

    body = Body.__new__(Body)  # its own way of being made reads a pickle
    body.model = _weighted(bodypose_model(), control, device)
    return aux.OpenposeDetector(body)  # type: ignore[no-any-return]


def _weighted(net: Any, control: Control, device: str) -> Any:
    """Fill a detector's network with the weights of its safetensors file."""
    from safetensors.torch import load_file

    weights = load_file(models.adapter_file(control.detector))
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        line = " ".join(str(error).split())[:200]
        raise ModelError(f"{control.detector}: no weights of the detector for {control.kind}: {line}") from error
    return net.float().eval().to(device)


def _depth(control: Control, device: str) -> Detector:
    """Open a depth estimator of `transformers`: near is bright, as depth networks were taught."""
    import torch

    with optional():
        from transformers import AutoImageProcessor, AutoModelForDepthEstimation
    name = control.detector
    folder = models.locate(name)
    try:
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        model = AutoModelForDepthEstimation.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError) as error:
        line = (str(error).splitlines() or [""])[0]
        raise ModelError(f"{name}: a depth estimator of transformers was expected: {line}") from error
    model = model.to(device).eval()

    def read(image: Image, **told: Any) -> Image:
        with torch.inference_mode():
            depth = model(**processor(image, return_tensors="pt").to(device)).predicted_depth[0].float().cpu().numpy()
        low, high = float(depth.min()), float(depth.max())
        grey = ((depth - low) / max(high - low, 1e-9) * 255).round().astype(np.uint8)
        return resize(grey[..., None].repeat(3, axis=2), (image.shape[1], image.shape[0]))

    return read
