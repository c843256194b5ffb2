"""A trained model on disk: weights in the layout of `save_pretrained`, and `tilth.json` with what the weights do not say."""

import importlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilth import models
from tilth.claims import Json
from tilth.data.files import folder_beside, write_beside
from tilth.encoders.few_shot import MODEL_TYPE
from tilth.errors import ModelError

if TYPE_CHECKING:
    import torch


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, by channel


@dataclass(kw_only=True)
class About:
    """`tilth.json`.

    Args:
        kind: `classifier` or `detector`.
        base: Model that was fine-tuned.
        labels: In the order of the outputs.
        side: Images are resized to a square of so many pixels.
        mean: Subtracted from pixels in [0, 1], by channel.
        std: Then divided by.
        keep_aspect: Whether what is beside an image in the square is grey, instead of the image being stretched.
        calibration: Of a classifier, `{label: {a, d, b}}`; see `tilth.encoders.fusion.Fusion`.
        thresholds: `{label: probability}`: what reaches the policy's aim on validation images, else what gave the best F1 there.
        aims: `{label: {recall: 0.95}}` that the threshold reaches there.
        clear_below: Of a classifier: hardly any unsafe validation image has all its probabilities below; None when too few
            images could tell.
        score_threshold: Of a detector: boxes below are not worth showing; None when too few boxes could tell.
        trained: Numbers of the training.
    """

    kind: str
    base: str
    labels: list[str]
    side: int
    mean: list[float]
    std: list[float]
    keep_aspect: bool = False
    calibration: dict[str, dict[str, float]] = field(default_factory=dict)
    thresholds: dict[str, float] = field(default_factory=dict)
    aims: dict[str, dict[str, float]] = field(default_factory=dict)
    clear_below: float | None = None
    score_threshold: float | None = None
    trained: dict[str, Json] = field(default_factory=dict)


def read_about(folder: Path) -> About:
    """Read what is known of an artifact.

    Raises:
        ModelError: It is not one of ours.
    """
    try:
        return About(**json.loads((folder / "tilth.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{folder}: not a trained model of ours: {error}") from error


def write_about(folder: Path, about: About) -> None:
    """Write `tilth.json`, whole or not at all."""
    write_beside(folder / "tilth.json", json.dumps(asdict(about), indent=1))


def preprocessing(base: str) -> tuple[int, list[float], list[float]]:
    """Return side, mean and std that a base model was trained with; ImageNet's where it does not say.

    Only `preprocessor_config.json`, `processor_config.json` and `config.json` are read, in which timm's models say it. A side may be a
    number or named by its ends, of what is cut out of an image or of the whole; where no processor says it, the vision model does.
    """
    folder = models.locate(base)
    told = _read_json(folder / "preprocessor_config.json") or _read_json(folder / "processor_config.json").get(
        "image_processor", {}
    )
    config = _read_json(folder / "config.json")
    timm = {**config.get("pretrained_cfg", {}), **config.get("model_args", {})}  # which says all in its one file
    sizes = [told.get("crop_size") if told.get("do_center_crop") else None, told.get("size")]
    sizes += [config.get("image_size"), config.get("vision_config", {}).get("image_size")]
    sizes += [timm.get("img_size"), timm.get("input_size")]
    side = next((found for size in sizes if (found := _side_of(size))), 224)
    if told.get("do_normalize") is False:
        return side, [0.0] * 3, [1.0] * 3
    told = {"image_mean": timm.get("mean", MEAN), "image_std": timm.get("std", STD), **told}
    return side, list(told["image_mean"]), list(told["image_std"])


def keeps_aspect(base: str) -> bool:
    """Tell whether a base model was trained on images of any shape, as DETR was, and not on stretched or cropped ones."""
    folder = models.locate(base)
    told = _read_json(folder / "preprocessor_config.json")
    size = told.get("size")
    return isinstance(size, dict) and "longest_edge" in size and not told.get("do_center_crop")


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _side_of(size: Any) -> int:
    """Read the side of a square as processors and configurations write it; 0 when nothing is said."""
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge")
    return int(max(size) if isinstance(size, list | tuple) else size or 0)


def load_for_training(kind: str, base: str, labels: Sequence[str]) -> "torch.nn.Module":
    """Load a base model with a fresh head for these labels.

    Raises:
        ModelError: The checkpoint is not of a kind that can be fine-tuned for this.
    """
    import torch
    from transformers import AutoModelForImageClassification, AutoModelForObjectDetection

    auto = AutoModelForImageClassification if kind == "classifier" else AutoModelForObjectDetection
    extra = {"problem_type": "multi_label_classification"} if kind == "classifier" else {}
    try:
        model: torch.nn.Module = auto.from_pretrained(
            models.locate(base), num_labels=len(labels), id2label=dict(enumerate(labels)),  # timm's models look at the number alone
            label2id={name: i for i, name in enumerate(labels)},
            ignore_mismatched_sizes=True, dtype=torch.float32, use_safetensors=True, **extra,
        )  # fmt: skip
    except (ValueError, OSError) as error:
        raise ModelError(f"{base}: cannot be fine-tuned as a {kind}: {str(error).splitlines()[0]}") from error
    return model


def load_trained(folder: Path, device: str) -> "tuple[torch.nn.Module, About]":
    """Load an artifact for inference."""
    import torch
    from transformers import AutoModelForImageClassification, AutoModelForObjectDetection

    about = read_about(folder)
    if _read_json(folder / "config.json").get("model_type") == MODEL_TYPE:
        importlib.import_module("tilth.train.artifacts.few_shot")  # which tells transformers of it
    auto = AutoModelForImageClassification if about.kind == "classifier" else AutoModelForObjectDetection
    model = auto.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    return model.to(device).eval(), about


def save_trained(model: "torch.nn.Module", about: About, folder: Path) -> Path:
    """Save weights and `tilth.json` so that the folder's existence means it is whole."""
    with folder_beside(folder) as partial:
        model.save_pretrained(partial)  # type: ignore[operator]  # transformers' models have it
        write_about(partial, about)
    return folder


def any_size(model: Any, side: int) -> dict[str, bool]:
    """Let a ViT take images of a size that it was not trained with; some do so by themselves."""
    fits = getattr(model.config, "image_size", side) == side
    asks = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
    return {"interpolate_pos_encoding": True} if asks and not fits else {}


def box_logits(logits: "torch.Tensor", n_labels: int) -> "torch.Tensor":
    """Return logits whose sigmoid is the score of each label, from what a detector says of its queries.

    Detectors with a last column for "no object" (DETR, YOLOS) share one softmax among all columns, others have a sigmoid for each.

    Args:
        logits: `(…, n_labels)` or `(…, n_labels + 1)`.
        n_labels: Labels that it was trained on.

    Returns:
        `(…, n_labels)` float32.
    """
    logits = logits.float()
    if logits.shape[-1] == n_labels:
        return logits
    chance = logits.softmax(-1)[..., :n_labels].clamp(1e-6, 1 - 1e-6)
    return chance.log() - (1 - chance).log()


def normalise(x: "torch.Tensor", about: About) -> "torch.Tensor":
    """Apply mean and std to `(n, 3, h, w)` in [0, 1]."""
    import torch

    mean = torch.tensor(about.mean, device=x.device)[:, None, None]
    std = torch.tensor(about.std, device=x.device)[:, None, None]
    return (x - mean) / std
