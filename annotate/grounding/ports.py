"""GroundingDINO, MM-Grounding-DINO and LLMDet as transformers has them: the default backend of `ground`.

The three are one family: LLMDet's checkpoints are MM-Grounding-DINOs. A text is read once, however many images are asked.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilth.annotate.grounding.deformable import use_gather
from tilth.errors import ModelError
from tilth.extras import optional

if TYPE_CHECKING:
    import torch

FAMILIES = ("grounding-dino", "mm-grounding-dino")


@dataclass(frozen=True, kw_only=True)
class Text:
    """A prompt in words, and as the tokenizer's output, `(1, tokens)` each."""

    caption: str
    tokens: "Mapping[str, torch.Tensor]"


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep a library's bar out of the run's own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_port(folder: Path, name: str) -> Any:
    """Load a checkpoint of the family in float32, ready for inference.

    Raises:
        ModelError: It is of another family.
    """
    with optional():
        import torch
        from transformers import AutoConfig, AutoModelForZeroShotObjectDetection

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if config.model_type not in FAMILIES:
        raise ModelError(f"{name}: a {config.model_type!r}; grounding needs one of {', '.join(FAMILIES)}")
    with _quietly():
        model = AutoModelForZeroShotObjectDetection.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model.eval()


class PortNetwork:
    """The network, from pixels and one text to token scores and boxes."""

    def __init__(self, folder: Path, name: str, device: str) -> None:
        self._model = load_port(folder, name).to(device)
        if device == "cpu":
            use_gather(self._model)
        self._model.model.text_backbone = _read_once(self._model.model.text_backbone)

    def __call__(self, pixels: "torch.Tensor", text: Text) -> "tuple[torch.Tensor, torch.Tensor]":
        """Return token logits `(n, queries, tokens)` and boxes `(n, queries, 4)` as cxcywh in parts of the image.

        Args:
            pixels: `(n, 3, h, w)`, normalised.
            text: What to look for, in all of them.
        """
        batch = {name: value.expand(len(pixels), -1) for name, value in text.tokens.items()}
        output = self._model(pixel_values=pixels, **batch)
        return output.logits, output.pred_boxes


def _read_once(encoder: Any) -> Any:
    """Wrap a text encoder for batches whose rows are one text: each text goes through it once, as a single row."""
    import torch

    class ReadOnce(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder
            self.known: dict[tuple[int, ...], Any] = {}

        def forward(self, ids: Any, mask: Any, kinds: Any, positions: Any, **more: Any) -> Any:
            text = tuple(ids[0].tolist())
            if text not in self.known:
                self.known[text] = self.encoder(ids[:1], mask[:1], kinds[:1], positions[:1], **more)
            read = self.known[text]
            return type(read)(last_hidden_state=read.last_hidden_state.expand(len(ids), -1, -1))

    return ReadOnce()
