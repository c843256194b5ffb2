"""What a drawing is made with: how to draw, and what is added to the model."""

from collections.abc import Callable
from dataclasses import field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from tilth import models
from tilth.engine.steps import group, names_step
from tilth.errors import ModelError
from tilth.extras import optional
from tilth.synth.safety.provenance import Writer
from tilth.synth.safety.refusals import refuse

# Those that take a model's own noise schedule and draw each image from its own seed, whatever else is in the batch.
SCHEDULERS = (
    "DDIMScheduler", "DDPMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler",
    "HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "LCMScheduler", "LMSDiscreteScheduler",
    "PNDMScheduler", "TCDScheduler", "UniPCMultistepScheduler",
)  # fmt: skip


Kind = Literal["canny", "softedge", "lineart", "depth", "normal", "pose"]
WITHOUT_DETECTOR = ("canny", "lineart")
# How much noise a method begins with: a hole has nothing to keep, of an image its layout should stay.
STRENGTHS = {"inpaint": 1.0, "insert": 1.0, "replace": 1.0, "image": 0.6}


@group
class Drawing:
    """How to draw.

    Args:
        steps: Denoising steps.
        guidance: Guidance scale.
        negative_prompt: What to steer away from.
        scheduler: Class of diffusers that takes the steps, such as `EulerDiscreteScheduler`; the model's own when empty.
        strength: Share of the noise that `inpaint`, `insert`, `replace` and `image` begin with, in (0, 1]; below 1, something of what is
            in the hole, or in the image, stays. Left out, it is 1, and 0.6 for `image`.
        control_scale: Pull of all control networks, in [0, 2].
        size: Pixels of a side, or width and height, as in `[768, 512]`; the model's own when 0.
        batch_size: Images drawn at once.
    """

    steps: int = 20
    guidance: float = 3.0
    negative_prompt: str = ""
    scheduler: str = ""
    strength: float | None = None
    control_scale: float = 1.0
    size: int | tuple[int, int] = 0
    batch_size: int = 16

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(f"steps and batch_size must be at least 1, got {self.steps} and {self.batch_size}")
        if self.size and min(self.size_wh) < 8:
            raise ValueError(f"size must be at least 8 pixels, or 0 for the model's own, got {self.size}")
        if self.scheduler and self.scheduler not in SCHEDULERS:
            near = get_close_matches(self.scheduler, SCHEDULERS, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"scheduler must be one of {', '.join(SCHEDULERS)}, got {self.scheduler!r}{meant}")
        if self.strength is not None and not 0 < self.strength <= 1:
            raise ValueError(f"strength must lie in (0, 1], got {self.strength}")
        if not 0 <= self.guidance <= 50:
            raise ValueError(f"guidance must lie in [0, 50], got {self.guidance}")
        if not 0 <= self.control_scale <= 2:
            raise ValueError(f"control_scale must lie in [0, 2], got {self.control_scale}")

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height; both 0 for the model's own."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def strength_of(self, method: str) -> float | None:
        """Return the share of noise that a method begins with; None for one that begins with nothing else."""
        if method not in STRENGTHS or self.strength is not None:
            return self.strength if method in STRENGTHS else None
        return STRENGTHS[method]


@group
class Control:
    """A control network, and how it pulls.

    Args:
        net: The checkpoint.
        kind: What it follows: `canny` edges, soft edges, line art, depth, normals or pose.
        detector: Model that reads this off an image; `canny` has none, `lineart` needs none.
        scale: Pull, in [0, 2].
        start: Share of the steps after which it begins to pull.
        end: Share of the steps after which it lets go.
    """

    net: str
    kind: Kind = "canny"
    detector: str = ""
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers, and that something can read what the network follows."""
        if not self.net:
            raise ValueError("a control needs a net, the checkpoint of a ControlNet")
        if not 0 <= self.scale <= 2:
            raise ValueError(f"scale must lie in [0, 2], got {self.scale}")
        if not 0 <= self.start < self.end <= 1:
            raise ValueError(f"0 <= start < end <= 1 must hold, got {self.start} and {self.end}")
        if self.kind == "canny" and self.detector:
            raise ValueError(f"canny edges are found without a detector, got {self.detector!r}")
        if self.kind not in WITHOUT_DETECTOR and not self.detector:
            raise ValueError(
                f"{self.kind} is read by a detector, and none is named; {', '.join(WITHOUT_DETECTOR)} need none"
            )


@group
class Parts:
    """What is added to a model: control networks, a model for holes, and adapters that each draw a style.

    Args:
        controlnet: ControlNet for Canny edges; the method `edges` needs it, or `controls`.
        controls: Control networks of any kind, which pull together, as in `[{net: my/depth@1, kind: depth, detector: my/dpt@1}]`.
        inpainting: Checkpoint that draws into holes, such as one with nine input channels; the model itself when empty.
        loras: Style -> adapter that draws it, or several: a folder, a repository at a commit, a `.safetensors` file, or the name of a
            `train.lora` before this step.
        lora_weights: Style -> strength of its adapter, or of each of several; 1 when not named.
    """

    controlnet: str = ""
    controls: tuple[Control, ...] = ()
    inpainting: str = ""
    loras: dict[str, str | tuple[str, ...]] = field(default_factory=dict)
    lora_weights: dict[str, float | tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that every weight is that of an adapter, and that control networks are named in one way."""
        if self.controlnet and self.controls:
            raise ValueError("name control networks as controls alone; controlnet is one for canny edges")
        if strays := sorted(set(self.lora_weights) - set(self.loras)):
            raise ValueError(f"lora_weights are by style, as loras are; there is no adapter {', '.join(strays)}")
        for style, told in self.lora_weights.items():
            if isinstance(told, tuple) and len(told) != len(self.of_style(style)):
                raise ValueError(f"{style} has {len(self.of_style(style))} adapters and {len(told)} lora_weights")
        if empty := [style for style in self.loras if not all(self.of_style(style)) or not self.of_style(style)]:
            raise ValueError(f"loras need an adapter for each style, got none for {', '.join(empty)}")

    @property
    def names(self) -> tuple[str, ...]:
        """The checkpoints that lie somewhere before anything runs."""
        return tuple(dict.fromkeys(name for name in (*self.networks, *self.adapters) if not names_step(name)))

    @property
    def networks(self) -> tuple[str, ...]:
        """Those of them that are no adapters: control networks, their detectors, and the model for holes."""
        found = [name for control in self.nets for name in (control.net, control.detector)]
        return tuple(dict.fromkeys(name for name in (*found, self.inpainting) if name))

    @property
    def nets(self) -> tuple[Control, ...]:
        """The control networks."""
        return (Control(net=self.controlnet),) if self.controlnet else self.controls

    def of_style(self, style: str) -> tuple[str, ...]:
        """Return the adapters that draw a style; none where the model draws it by itself."""
        found = self.loras.get(style, ())
        return (found,) if isinstance(found, str) else found

    @property
    def adapters(self) -> tuple[str, ...]:
        """All adapters, those of earlier steps among them."""
        return tuple(dict.fromkeys(name for style in self.loras for name in self.of_style(style)))

    def placed(self, artifact: Callable[[str], Path]) -> tuple["Parts", dict[str, str]]:
        """Return the parts with adapters of earlier steps by their folders, and the name of the step of each folder.

        Args:
            artifact: Says where a step left its adapter.
        """
        called = {str(artifact(name)): name for name in self.adapters if names_step(name)}
        folders = {name: folder for folder, name in called.items()}
        loras: dict[str, str | tuple[str, ...]] = {
            style: tuple(folders.get(name, name) for name in self.of_style(style)) for style in self.loras
        }
        return replace(self, loras=loras), called

    def weights(self, style: str) -> tuple[float, ...]:
        """Return how strongly each of the adapters of a style draws."""
        told = self.lora_weights.get(style, 1.0)
        return told if isinstance(told, tuple) else (told,) * len(self.of_style(style))

    def adapter(self, style: str) -> str:
        """Return the style whose adapters draw this one; empty for none."""
        return style if style in self.loras else ""

    def refuse(self, model: str) -> None:
        """Refuse models, adapters and control networks whose names or metadata ask for what is never generated.

        Args:
            model: Name of the checkpoint that they are added to.

        Raises:
            InputError: They do.
        """
        told = {
            f"adapter {number}": f"{style} {lora} {'' if names_step(lora) else metadata(lora)}"
            for number, (style, lora) in enumerate(((s, lora) for s in self.loras for lora in self.of_style(s)), 1)
        }
        told["model"] = f"{model} {metadata(model)}"
        told |= {f"part {n}": f"{name} {metadata(name)}" for n, name in enumerate(self.networks, 1)}
        refuse(told)


@group
class Memory:
    """What is held where.

    Args:
        offload: On a GPU: `none` holds all there, `model` one part in turn, `layers` one layer in turn, which is slow; `auto` takes `model`
            where the parts do not fit.
        tiling: Whether the autoencoder works image by image and, of large ones, tile by tile; `auto` does where that saves gigabytes.
    """

    offload: Literal["auto", "none", "model", "layers"] = "auto"
    tiling: Literal["auto", "on", "off"] = "auto"


@group
class Pasting:
    """How `paste` puts a cut-out into a scene.

    Args:
        blend: `feather` softens the outline; `seamless` fits colours and light to the place as well (Poisson blending).
        sides: Least and most of the scene's sides that the thing may take.
    """

    blend: Literal["feather", "seamless"] = "feather"
    sides: tuple[float, float] = (0.25, 0.6)

    def __post_init__(self) -> None:
        """Check the sides."""
        if not 0 < self.sides[0] <= self.sides[1] <= 0.9:
            raise ValueError(f"sides must lie in (0, 0.9], the lesser first, got {self.sides}")


@group
class Files:
    """How what is drawn is written.

    Args:
        kind: `png` or `webp`, which lose nothing, or `jpeg`.
        certificate: PEM file with a chain of certificates and its private key, with which each file is signed (C2PA); `test` for a
            certificate that nobody trusts; nothing is signed when empty.
    """

    kind: Literal["png", "webp", "jpeg"] = "png"
    certificate: str = ""

    def writer(self) -> Writer:
        """Return what writes them.

        Raises:
            InputError: Nothing can be signed with the certificate.
        """
        return Writer(self.kind, self.certificate)


def metadata(model: str) -> str:
    """Return what a checkpoint's files say about it in words: their names, and the headers of its safetensors files.

    Raises:
        ModelError: A file is damaged.
    """
    with optional():
        from safetensors import SafetensorError, safe_open

    said: list[str] = []
    found = models.find(model)
    for path in sorted(found.rglob("*.safetensors")) if found.is_dir() else [found]:
        try:
            with safe_open(path, framework="np") as file:
                said += [path.stem, *(f"{key} {value}" for key, value in (file.metadata() or {}).items())]
        except SafetensorError as error:
            raise ModelError(f"{path}: not a whole .safetensors file: {error}; download it again") from error
    return " ".join(said)
