"""How much of a base model learns, and how fast each part: all of it, small adapters beside it, or its last layer alone.

Few examples cannot move many weights without harm, and moving them all needs many times the memory. So a large model's last layer is
learned from few examples, low-rank adapters in its layers from some, and all of it from many.

Paper: https://arxiv.org/abs/2106.09685 (LoRA), https://arxiv.org/abs/2106.08254 (rates that fall towards the input, in fine-tuning BEiT)
Differs: adapters are merged into the weights when training ends, so that what comes out is a model like any other.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tilth.errors import InputError

if TYPE_CHECKING:
    from torch import nn

METHODS = ("auto", "full", "lora", "probe")
RANK = 8  # of adapters
LARGE = 5_000_000  # weights, from which on a model is not learned whole from few images
FEW, SOME = 200, 5_000  # training images below which a large model's last layer is learned, and its adapters
STEPS = (300, 20_000)  # fewest and most that are taken when nobody says how many
PASSES = 30  # over the training images, when nobody says how many steps: most trainings end by themselves before
RATES = {  # and how much slower what lies deeper learns, of a kind, a method, and a large model
    ("classifier", "full", False): (5e-4, 1.0), ("classifier", "full", True): (5e-5, 0.75),
    ("classifier", "lora", False): (1e-3, 1.0), ("classifier", "lora", True): (5e-4, 1.0),
    ("classifier", "probe", False): (5e-3, 1.0), ("classifier", "probe", True): (5e-3, 1.0),
    ("detector", "full", False): (6e-4, 1.0), ("detector", "full", True): (1e-4, 0.1),
}  # fmt: skip
LAYER = re.compile(r"(?:^|\.)(?:layers?|blocks?|stages)\.(\d+)\.")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How a model is trained, with what nobody said chosen by its size and the number of images.

    Args:
        method: `full`, `lora` or `probe`.
        lr: Peak learning rate.
        steps: Most optimiser steps.
        slower: Factor on the rate: in a classifier from each layer to the one before it, in a detector of its whole backbone.
        decay: Weight decay of AdamW.
    """

    method: str = "auto"
    lr: float = 0
    steps: int = 0
    slower: float = 0
    decay: float = 0.05

    def settled(self, kind: str, weights: int, images: int, batch: int) -> "Choice":
        """Choose what is left open.

        Args:
            kind: `classifier` or `detector`; a detector is always learned whole, as boxes come from all of its layers.
            weights: Of the base model.
            images: To learn from.
            batch: Images a step.

        >>> Choice().settled("classifier", 86_000_000, 120, 32)
        Choice(method='probe', lr=0.005, steps=300, slower=1.0, decay=0.05)
        >>> Choice(lr=1e-4).settled("classifier", 86_000_000, 50_000, 32)
        Choice(method='full', lr=0.0001, steps=20000, slower=0.75, decay=0.05)
        """
        large = weights >= LARGE
        method = self.method
        if method == "auto":
            whole = kind == "detector" or not large or images >= SOME
            method = "full" if whole else "probe" if images < FEW else "lora"
        rate, slower = RATES[kind, method, large]
        return Choice(
            method=method,
            lr=self.lr or rate,
            steps=self.steps or min(max(STEPS[0], PASSES * images // batch), STEPS[1]),
            slower=self.slower or slower,
            decay=self.decay,
        )

    def told(self, weights: int, learns: int) -> str:
        """Say it in a line."""
        how = {"full": "all", "lora": "adapters and the last layer", "probe": "the last layer"}[self.method]
        return f"{how}: {learns:,} of {weights:,} weights learn, lr {self.lr:g}, {self.steps} steps at most"


def head_of(model: "nn.Module", labels: int) -> str:
    """Return the name of the last layer, which says the labels.

    Raises:
        InputError: There is none.
    """
    from torch import nn

    found: list[str] = [
        name for name, part in model.named_modules() if isinstance(part, nn.Linear) and part.out_features == labels
    ]
    if not found:
        raise InputError(f"{type(model).__name__} has no linear last layer of {labels} outputs; set method: full")
    return found[-1]


def keep_less(model: Any, name: str) -> None:
    """Compute what lies between layers twice instead of keeping it.

    Raises:
        InputError: The model cannot.
    """
    try:
        model.gradient_checkpointing_enable()
    except ValueError as error:
        raise InputError(
            f"{name}: {type(model).__name__} has no gradient checkpointing; set checkpointing: false"
        ) from error


def freeze(model: Any, method: str, *, labels: int) -> None:
    """Let only the last layer learn, and adapters in the others when the method is `lora`.

    Statistics of a batch norm that does not learn stay as they are.
    """
    from torch import nn

    if method == "full":
        return
    head = head_of(model, labels)
    model.requires_grad_(False)
    if method == "lora":
        from peft import LoraConfig, inject_adapter_in_model

        kinds = (nn.Linear,) if any(name != head for name in _named(model, nn.Linear)) else (nn.Conv2d,)
        targets = [name for kind in kinds for name in _named(model, kind) if name != head]
        inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=targets), model)
    model.get_submodule(head).requires_grad_(True)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval().train = lambda mode=True, part=part: part  # type: ignore[method-assign,misc]


def _named(model: "nn.Module", kind: type) -> list[str]:
    return [name for name, part in model.named_modules() if isinstance(part, kind)]


def merge(model: "nn.Module") -> None:
    """Put adapters into the weights that they stand beside, and let everything learn again."""
    from peft.tuners.lora import LoraLayer

    for name, part in list(model.named_modules()):
        part.__dict__.pop("train", None)
        if isinstance(part, LoraLayer):
            part.merge()
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, part.get_base_layer())
    model.requires_grad_(True)


def groups(model: "nn.Module", weight_decay: float, slower: Callable[[str], float]) -> list[dict[str, Any]]:
    """Return what learns as parameter groups of `fit`; biases, norms, tokens and positions do not decay.

    Args:
        model: What learns.
        weight_decay: Of the other weights.
        slower: Factor on the learning rate of a weight by its name.
    """
    found: dict[tuple[float, float], list[Any]] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            decays = weight.ndim > 1 and not name.endswith(("token", "tokens", "embeddings", "pos_embed"))
            found.setdefault((slower(name), weight_decay if decays else 0.0), []).append(weight)
    return [{"params": params, "scale": scale, "weight_decay": decay} for (scale, decay), params in found.items()]


def by_layer(model: "nn.Module", factor: float) -> Callable[[str], float]:
    """Return how much slower each weight of a classifier learns: by `factor` from each layer to the one before it.

    What comes before the first layer is slowest, and what comes after the last as fast as it may be.
    """
    names = [name for name, _ in model.named_parameters()]
    places = {name: int(told.group(1)) + 1 for name in names if (told := LAYER.search(name))}
    depth, first = max(places.values(), default=0), next((i for i, name in enumerate(names) if name in places), 0)
    before = set(names[:first])
    return lambda name: factor ** (depth + 1 - places.get(name, 0 if name in before else depth + 1))
