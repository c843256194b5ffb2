"""One network a cue, from a crop to a vector of length one: a backbone by spec, or a small one that begins from nothing.

No weights come with Tilth. A backbone is any image model of transformers, timm's among them, by folder or hub id at a commit, with the
licences of its code, its weights and the data that these were learned from.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tilth import models
from tilth.data.files import folder_beside, write_beside
from tilth.engine.steps import group
from tilth.errors import ModelError
from tilth.images import Image

if TYPE_CHECKING:
    import torch

SMALL = "small"  # a residual network of 0.2 million weights
BATCH = 256

Vectors = npt.NDArray[np.float32]


@group
class Backbone:
    """What a network begins as.

    Args:
        model: A folder or a hub id at a commit; `small` for a new one without weights.
        code: Licence of its code; `unknown` is an answer.
        weights: Licence of its weights.
        data: Licence or terms of what the weights were learned from.
    """

    model: str = SMALL
    code: str = ""
    weights: str = ""
    data: str = ""

    def __post_init__(self) -> None:
        """Check that licences are told.

        Raises:
            ValueError: One is not.
        """
        untold = [name for name in ("code", "weights", "data") if not getattr(self, name).strip()]
        if self.model != SMALL and untold:
            raise ValueError(
                f"{self.model} needs the licences of its code, weights and data; {', '.join(untold)} not told"
            )


def fresh(backbone: Backbone, side: int, width: int, seed: int) -> Any:
    """Return a network to learn with: a backbone, and a projection to `width` numbers.

    Args:
        backbone: What it begins as.
        side: Of the crops that it is shown.
        width: Of the vectors.
        seed: Of the weights that are new.

    Raises:
        ModelError: The model is none that makes vectors of images.
    """
    import torch
    from transformers import AutoModel, ResNetConfig, ResNetModel

    torch.manual_seed(seed)
    if backbone.model == SMALL:
        config = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32, 64, 96], depths=[1, 1, 1, 1], layer_type="basic")
        body: Any = ResNetModel(config)
        body.embedder.pooler = torch.nn.Identity()  # crops are small already
    else:
        try:
            body = AutoModel.from_pretrained(models.locate(backbone.model), dtype=torch.float32, use_safetensors=True)
        except (ValueError, OSError) as error:
            raise ModelError(f"{backbone.model}: no image model: {str(error).splitlines()[0]}") from error
    network = _network(body, width)
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, side, side))  # so that the projection knows its width
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"{backbone.model}: takes no crops of {side} pixels: {str(error).splitlines()[0]}") from error
    return network


def _network(body: Any, width: int) -> Any:
    """Put a projection on a backbone; torch is imported late, so the class is made here."""
    import torch

    class Embedder(torch.nn.Module):
        """A backbone with a projection."""

        def __init__(self) -> None:
            super().__init__()
            self.body = body
            self.project = torch.nn.LazyLinear(width)

        def forward(self, pixels: "torch.Tensor") -> "torch.Tensor":
            said = self.body(pixel_values=pixels)
            pooled = getattr(said, "pooler_output", None)
            pooled = said.last_hidden_state.mean(1) if pooled is None else pooled.flatten(1)
            return torch.nn.functional.normalize(self.project(pooled), dim=-1)

    return Embedder()


def to_tensor(images: npt.NDArray[np.uint8], device: str) -> "torch.Tensor":
    """Turn crops `(n, side, side, 3)` into `(n, 3, side, side)`, about -2 to 2."""
    import torch

    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 64 - 2


def embed(network: Any, images: Sequence[Image], device: str) -> Vectors:
    """Return the vectors of crops, `(n, width)`, each of length one."""
    import torch

    network.eval()
    with torch.inference_mode():
        some = [images[at : at + BATCH] for at in range(0, len(images), BATCH)]
        found = [network(to_tensor(np.stack(part), device)).float().cpu().numpy() for part in some]
    return np.concatenate(found) if found else np.zeros((0, 0), np.float32)


def save(networks: Mapping[str, Any], about: Mapping[str, Any], folder: Path) -> None:
    """Write networks and what is known of them, so that the folder's existence means it is whole."""
    from safetensors.torch import save_file

    with folder_beside(folder) as partial:
        partial.mkdir(parents=True, exist_ok=True)
        for cue, network in networks.items():
            save_file({k: v.contiguous() for k, v in network.state_dict().items()}, partial / f"{cue}.safetensors")
        write_beside(partial / "person.json", json.dumps(about, indent=1))


def load(folder: Path, device: str = "cpu") -> tuple[dict[str, Any], dict[str, Any]]:
    """Read networks and what is known of them.

    Raises:
        ModelError: The folder holds none of ours.
    """
    from safetensors.torch import load_file

    try:
        about: dict[str, Any] = json.loads((folder / "person.json").read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: not what train.person leaves: {error}") from error
    networks = {}
    for cue, told in about["backbones"].items():
        network = fresh(Backbone(**told), int(about["side"]), int(about["width"]), 0)
        network.load_state_dict(load_file(folder / f"{cue}.safetensors"))
        networks[cue] = network.to(device).eval()
    return networks, about
