"""Adapters onto a pipeline: they fit whole, or one line says why not, and which model they were made for."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tilth import models
from tilth.errors import ModelError
from tilth.synth.draw.settings import Parts

# Where tools that train adapters write what they trained it on.
BASES = ("ss_base_model_version", "modelspec.architecture", "ss_sd_model_name", "base_model_name_or_path", "base_model")
DOWN = re.compile(r"[._]lora[._](?:A|down)\.|\.down\.weight$")  # one a layer, however a tool spells it
SIZES = re.compile(r"size mismatch for (\S+): .*?Size\((\[.*?\])\).*?Size\((\[.*?\])\)")
MOST = 200  # characters of a library's reason


class Adapters:
    """The adapters on a pipeline, of which those of one style draw at a time.

    Meanwhile they are added to the weights that they change, so that they cost nothing a step; what these were is kept, and put back to the
    last bit when others draw.

    Args:
        pipeline: Of diffusers.
        parts: Which adapters, by style, and how strongly they draw.
        model: Name of the checkpoint, for messages.

    Raises:
        ModelError: One does not fit.
    """

    def __init__(self, pipeline: Any, parts: Parts, model: str) -> None:
        self._pipeline, self._parts, self._style = pipeline, parts, ""
        self._names = {lora: f"adapter{number}" for number, lora in enumerate(parts.adapters)}  # peft wants no dots
        for lora, name in self._names.items():
            fit_adapter(pipeline, name, lora, model)
        self._plain: list[tuple[Any, Any]] = []
        if self._names:
            pipeline.disable_lora()

    def use(self, style: str) -> None:
        """Let the adapters of a style draw; an empty one has none."""
        if style == self._style:
            return
        fused = [
            name for name in self._pipeline._lora_loadable_modules if getattr(self._pipeline, name, None) is not None
        ]
        if self._plain:
            self._pipeline.unfuse_lora(components=fused)
            for weight, before in self._plain:
                weight.data.copy_(before)
            self._plain = []
        if style:
            chosen = [self._names[lora] for lora in self._parts.of_style(style)]
            self._pipeline.enable_lora()
            self._pipeline.set_adapters(chosen, list(self._parts.weights(style)))
            changed = list(self._changed(chosen))
            if all(weight.device.type != "meta" for weight in changed):  # they are elsewhere, a layer at a time
                self._plain = [(weight, weight.detach().to("cpu", copy=True)) for weight in changed]
                self._pipeline.fuse_lora(components=fused, adapter_names=chosen)
        else:
            self._pipeline.disable_lora()
        self._style = style

    def _changed(self, names: Sequence[str]) -> Iterator[Any]:
        """Yield the weights that adapters are added to."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        for part in _networks(self._pipeline):
            for layer in part.modules():
                if isinstance(layer, BaseTunerLayer) and any(name in getattr(layer, "lora_A", ()) for name in names):
                    yield layer.get_base_layer().weight


def fit_adapter(pipeline: Any, name: str, lora: str, model: str) -> None:
    """Load an adapter onto a pipeline.

    Args:
        pipeline: Of diffusers.
        name: That the adapter goes by.
        lora: Its file, or a folder or repository that holds one; in the spelling of diffusers, peft or kohya.
        model: Name of the checkpoint, for the message.

    Raises:
        ModelError: It does not fit, or a part of it would be left out.
    """
    from safetensors.torch import load_file

    path = models.adapter_file(lora)
    where: dict[str, Any] = {"pretrained_model_name_or_path_or_dict": path.parent, "weight_name": path.name}
    weights = load_file(path)
    if all(any(part in key for key in weights) for part in (".lora_A.", ".lora.down.")):
        # diffusers' own writer can mix two spellings in one file, of which its reader silently takes only the first
        spelt = {k.replace(".lora.down.", ".lora_A.").replace(".lora.up.", ".lora_B."): v for k, v in weights.items()}
        where = {"pretrained_model_name_or_path_or_dict": spelt}
    try:
        pipeline.load_lora_weights(adapter_name=name, local_files_only=True, **where)
    except Exception as error:
        raise ModelError(f"{lora}: does not fit {model}: {reason(error)}; {made_for(path)}") from error
    layers, taken = sum(bool(DOWN.search(key)) for key in weights), _layers(pipeline, name)
    if taken < layers or not taken:
        raise ModelError(
            f"{lora}: does not fit {model}: {max(0, layers - taken)} of its {layers} layers have no place in it; {made_for(path)}"
        )


def _layers(pipeline: Any, name: str) -> int:
    """Count the layers that an adapter has on all parts of a pipeline."""
    return sum(f".lora_A.{name}." in key for part in _networks(pipeline) for key, _ in part.named_parameters())


def _networks(pipeline: Any) -> list[Any]:
    import torch

    return [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]


def reason(error: Exception) -> str:
    """Say in a short line why a library refused an adapter; it may have said it in kilobytes."""
    told = str(error)
    if sizes := SIZES.findall(told):
        layer, theirs, ours = sizes[0]
        return f"{len(sizes)} of its weights are of another size, {layer} first: {theirs} where the model has {ours}"
    if "ignore_mismatched_sizes" in told:
        return "its weights for the text encoder are of another size"
    line = " ".join(told.split())
    return line if len(line) <= MOST else f"{line[:MOST]}…"


def made_for(path: Path) -> str:
    """Say which model an adapter was made for, as far as its file or the settings beside it tell."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        told = dict(file.metadata() or {})
    beside = path.with_name("adapter_config.json")  # of peft
    told |= json.loads(beside.read_text()) if beside.exists() else {}
    said = [str(told[key]) for key in BASES if told.get(key) not in (None, "", "None")]
    if not said:
        return "its metadata does not say for which model it was made"
    return f"its metadata says that it was made for {', '.join(dict.fromkeys(said))}"
