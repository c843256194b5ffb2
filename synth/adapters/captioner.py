"""A model that says what is in an image, where labels do not.

Paper: https://arxiv.org/abs/2201.12086 (BLIP), https://arxiv.org/abs/2301.12597 (BLIP-2)
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tilth import models
from tilth.data.files import write_beside
from tilth.engine.job import batched
from tilth.errors import ModelError
from tilth.extras import optional
from tilth.samples import Sample
from tilth.synth.draw.loading import quiet

CLASSES = {"blip": "BlipForConditionalGeneration", "blip-2": "Blip2ForConditionalGeneration"}
TOKENS = 30
AT_ONCE = 8


class Captioner:
    """Describes images in a few words.

    Args:
        model: BLIP or BLIP-2 checkpoint.
        device: `auto`, `cpu`, `cuda`, …
        notes: File that keeps what was said, so that a killed step says it once.

    Raises:
        ModelError: It is absent or of another kind.
    """

    def __init__(self, model: str, device: str, notes: Path) -> None:
        self._model, self._device, self._notes = model, models.device(device), notes
        kind = str(models.settings(model).get("model_type", ""))
        if kind not in CLASSES:
            raise ModelError(
                f"{model}: a captioner is a BLIP or BLIP-2 that writes; this is {kind or 'something else'}"
            )
        self._class = CLASSES[kind]

    def __call__(self, samples: Sequence[Sample]) -> list[str]:
        """Say what is in each image."""
        said: dict[str, str] = json.loads(self._notes.read_text()) if self._notes.exists() else {}
        if missing := [sample for sample in samples if sample.id not in said]:
            net, processor = self._load()
            for some in batched(missing, AT_ONCE):
                given = processor(images=[sample.pixels() for sample in some], return_tensors="pt")
                ids = net.generate(
                    **given.to(self._device, net.dtype), max_new_tokens=TOKENS, num_beams=1, do_sample=False
                )
                texts = processor.batch_decode(ids, skip_special_tokens=True)
                said |= {sample.id: " ".join(text.split()) for sample, text in zip(some, texts, strict=True)}
                write_beside(self._notes, json.dumps(said))
        return [said[sample.id] for sample in samples]

    def _load(self) -> tuple[Any, Any]:
        import torch

        with optional():
            import transformers
        folder = models.locate(self._model)
        dtype = getattr(torch, models.precision(self._device)) if self._device.startswith("cuda") else torch.float32
        with quiet():
            try:
                net = getattr(transformers, self._class).from_pretrained(
                    folder, dtype=dtype, use_safetensors=True, local_files_only=True
                )
                processor = transformers.AutoProcessor.from_pretrained(folder, local_files_only=True)
            except (OSError, ValueError) as error:
                reason = (str(error).splitlines() or [""])[0]
                raise ModelError(f"{self._model}: cannot be loaded with {self._class}: {reason}") from error
        return net.to(self._device).eval(), processor
