"""How an adapter is taught: from which images, in which words, into which layers, for how long."""

import string
from typing import Literal

from tilth.engine.steps import group
from tilth.synth.safety.refusals import refuse

PLAIN = "photo"  # what `{style}` says where nobody named one


@group
class Slice:
    """From which images to learn: real ones of the training split, and of them those that all of this holds for.

    Args:
        where: A condition, as `tilth count` takes it: `where: "source like '%posters%'"`.
        style: The look that they share, a word of the captions; without `where`, images whose column `style` says it.
        categories: With a label of one of these.
        most: Images at most.
        val_share: Share of them that is held back, to judge by; one at least.
        mirror: Learn from their mirror images, too; wrong for writing.
        aspect: `keep` their shapes, in buckets of about as many pixels as a square of `side`, or cut the middle `square` out of each.
        side: Pixels of that square's side; the model's own when 0. Finer lines than its autoencoder sees at its own size want more.
    """

    where: str = ""
    style: str = ""
    categories: tuple[str, ...] = ()
    most: int = 200
    val_share: float = 0.15
    mirror: bool = True
    aspect: Literal["keep", "square"] = "keep"
    side: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.most < 5:
            raise ValueError(f"most must be at least 5, got {self.most}")
        if self.side and not 32 <= self.side <= 4096:
            raise ValueError(f"side must lie in [32, 4096], or be 0 for the model's own, got {self.side}")
        if not 0 < self.val_share <= 0.5:
            raise ValueError(f"val_share must lie in (0, 0.5], got {self.val_share}")


@group
class Captions:
    """In which words an image is described.

    Args:
        template: With `{style}` and `{content}`: what is in the image, by its labels and the policy's words for them, or by a captioner.
        bare: The same for images of which nobody knows what is in them.
        trigger: Word for what is learned, said by `{style}`; the style's name when empty.
        captioner: BLIP or BLIP-2 checkpoint that says what is in an image; the labels do when empty.
        drop: Share of images shown without caption, which guidance compares with when drawing.
    """

    template: str = "a {style} of {content}"
    bare: str = "a {style}"
    trigger: str = ""
    captioner: str = ""
    drop: float = 0.1

    def __post_init__(self) -> None:
        """Check the names in the templates."""
        for template, known in ((self.template, {"style", "content"}), (self.bare, {"style"})):
            names = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
            if unknown := sorted(names - known):
                told = ", ".join("{" + name + "}" for name in unknown)
                raise ValueError(f"nothing fills {told} of {template!r}; known: {', '.join(sorted(known))}")
            if self.trigger and "style" not in names:
                raise ValueError(f"the trigger {self.trigger!r} is nowhere in {template!r}; say it as {{style}}")
        if not 0 <= self.drop < 1:
            raise ValueError(f"drop must lie in [0, 1), got {self.drop}")

    def word(self, style: str) -> str:
        """Return the word for what is learned."""
        return self.trigger or style or PLAIN

    def refuse(self, style: str, model: str) -> None:
        """Refuse words that ask for what is never generated.

        Raises:
            InputError: They do.
        """
        told = {"template": f"{self.template} ; {self.bare}", "trigger": self.trigger, "style": style, "model": model}
        refuse({name: text.format(style="", content="") if name == "template" else text for name, text in told.items()})


@group
class Layers:
    """What learns.

    Args:
        rank: Of the adapter's matrices; its scale is 1, so that all tools read it alike.
        targets: Layers that get some, by the end of their names; when empty those of attention, in a model below 50 million weights
            convolutions as well.
        text_encoder: Let the text encoders learn as well.
    """

    rank: int = 8
    targets: tuple[str, ...] = ()
    text_encoder: bool = False

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 1 <= self.rank <= 1024:
            raise ValueError(f"rank must lie in [1, 1024], got {self.rank}")


@group
class Learning:
    """How long and how fast.

    Args:
        steps: Optimiser steps at most. The rate falls, and training ends, when held-back images gain nothing any more.
        batch_size: Images a step.
        lr: Learning rate at its peak; 0 for 0.0001, or 0.002 for a model below 50 million weights.
        patience: Checks without a gain, one every 50 steps, before the rate falls; 0 takes all steps.
        accumulate: Batches whose gradients make up one step.
        snr_gamma: Weighs down times of little noise, as in https://arxiv.org/abs/2303.09556, which has 5; 0 for none.
        checkpointing: Compute what lies between layers twice instead of keeping it: less memory, a third more time.
        save_every: Steps between checkpoints, which a killed training goes on from.
        controlnet: ControlNet for Canny edges that pulls meanwhile, along the edges of each image; for an adapter that will draw with it.
    """

    steps: int = 600
    batch_size: int = 8
    lr: float = 0.0
    patience: int = 4
    accumulate: int = 1
    snr_gamma: float = 0.0
    checkpointing: bool = False
    save_every: int = 50
    controlnet: str = ""

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("steps", "batch_size", "accumulate", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.lr < 1:
            raise ValueError(f"lr must lie in [0, 1), got {self.lr}")
        if self.patience < 0 or self.snr_gamma < 0:
            raise ValueError(f"patience and snr_gamma must not be negative, got {self.patience} and {self.snr_gamma:g}")


@group
class Prior:
    """Images that keep what the model knew, mixed into the batches.

    Paper: https://arxiv.org/abs/2208.12242 (section 3.2)

    Args:
        count: How many; 0 for none.
        share: Of each batch, in (0, 0.9].
        style: What `{style}` says in their captions.
        where: Condition for real images of the training split; when empty, the model draws them before it learns, in the words of the
            captions.
    """

    count: int = 0
    share: float = 0.25
    style: str = PLAIN
    where: str = ""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.count < 0:
            raise ValueError(f"count must not be negative, got {self.count}")
        if self.where and not self.count:
            raise ValueError("a prior needs a count of images, as in {count: 100}, or no where")
        if not 0 < self.share <= 0.9:
            raise ValueError(f"share must lie in (0, 0.9], got {self.share}")
