"""The step that teaches a text-to-image model a look or a thing from a few images, as an adapter of a few megabytes."""

import json
import shutil
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tilth import models
from tilth.claims import Json
from tilth.data.files import write_beside
from tilth.engine.fit import fit
from tilth.engine.plateau import Plateau
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.samples import join_licences
from tilth.synth.adapters.captioner import Captioner
from tilth.synth.adapters.choosing import Chosen, choose, digest
from tilth.synth.adapters.denoiser import SMALL, Denoiser
from tilth.synth.adapters.lesson import Lesson, trainable
from tilth.synth.adapters.lora import ATTENTION, CONVOLUTIONS, OF_TEXT, adapter_of, add_adapter, save_adapter
from tilth.synth.adapters.prior import drawn, real
from tilth.synth.adapters.settings import Captions, Layers, Learning, Prior, Slice
from tilth.synth.draw.lengths import encoders, refuse_long
from tilth.synth.draw.settings import metadata
from tilth.synth.safety.refusals import refuse, version

if TYPE_CHECKING:
    import torch

CHECK_EVERY = 50  # steps
GAIN = 0.002  # of the loss of the base model, that a check must gain
LAST = 20  # steps whose mean loss is told at the end


@step
class TrainLora:
    """Teach a text-to-image model a look or a thing from 5 to 200 images of the dataset, as an adapter (LoRA) that `generate` draws with.

    Args:
        model: Stable Diffusion checkpoint: 1, 2 or XL, with a U-Net, or 3, with a transformer.
        images: From which to learn, as in `{where: "source like '%neon%'", style: neon}`.
        captions: How they are described.
        layers: What learns.
        learning: How long and how fast.
        prior: Images that keep what the model knew.
    """

    model: str = "starter:diffusion"
    images: Slice = field(default_factory=Slice)
    captions: Captions = field(default_factory=Captions)
    layers: Layers = field(default_factory=Layers)
    learning: Learning = field(default_factory=Learning)
    prior: Prior = field(default_factory=Prior)

    def __post_init__(self) -> None:
        """Check that nothing is asked for that is never generated."""
        try:
            self.captions.refuse(self.images.style, self.model)
        except InputError as error:
            raise ValueError(str(error)) from error

    def models(self) -> tuple[str, ...]:
        """Name the base model, the captioner and the ControlNet."""
        return (self.model, *filter(None, (self.captions.captioner, self.learning.controlnet)))

    def run(self, work: Work) -> Facts:
        """Train, or go on from the last checkpoint, and publish the adapter under the step's name.

        Raises:
            InputError: The slice is too small, or something in it is never generated.
            ModelError: The model is of a family that adapters are not trained for.
        """
        out, told = work.folder / "adapter", work.folder / "told.json"
        if not (out.is_dir() and told.exists()):
            names = filter(None, (self.model, self.learning.controlnet))
            refuse({"model": " ".join(f"{name} {metadata(name)}" for name in names)})
            self._teach(work, self._choose(work), out, told)
        work.publish(work.name, out)
        facts: dict[str, Json] = json.loads(told.read_text())
        return {"adapter": str(out), **facts}

    def _choose(self, work: Work) -> Chosen:
        by = encoders(self.model)

        def fits(text: str) -> bool:
            return any(each.tokens(text) <= each.limit for each in by)

        describe = None
        if self.captions.captioner:
            describe = Captioner(self.captions.captioner, work.device, work.folder / "captions.json")
        chosen = choose(work, self.images, self.captions, fits, describe)
        if self.prior.where:
            chosen.shown.extend(real(work, self.prior, self.captions, fits, chosen.shown))
        elif self.prior.count:
            chosen.shown.extend(drawn(work, self.model, self.prior, self.captions, fits, chosen.shown))
        refuse_long({"captions": [text for one in chosen.shown for text in one.captions]}, by, self.model)
        return chosen

    def _teach(self, work: Work, chosen: Chosen, out: Path, told: Path) -> None:
        denoiser = Denoiser(self.model, work.device, self.learning.controlnet)
        with work.events.progress(f"{work.name}: look", len(chosen.shown)) as advance:
            lesson = Lesson(
                denoiser, chosen.shown, work.folder, seed=work.seed, images=self.images, captions=self.captions,
                learning=self.learning, prior=self.prior, learns_text=self.layers.text_encoder, advance=advance,
            )  # fmt: skip
        shown = lesson.shown
        chosen = replace(chosen, shown=shown)
        denoiser.let_go(texts=not self.layers.text_encoder)
        parts = self._parts(denoiser, work.seed)
        weights = trainable(*parts.values())
        lr = self.learning.lr or (2e-3 if denoiser.weights < SMALL else 1e-4)
        before = lesson.val_loss()
        steps = self.learning.steps
        plateau = Plateau(
            most=steps,
            every=min(CHECK_EVERY, max(1, steps // 4)),
            patience=self.learning.patience,
            gain=GAIN * before,
            warmup=min(30, max(1, steps // 10)),
        )
        learns = sum(weight.numel() for weight in weights)
        message = f"  {len(shown)} images, {learns:,} weights learn, at a rate of {lr:g}, in {steps:,} steps at most"
        work.events.emit(
            "training", step=work.name, images=len(shown), learns=learns, lr=lr, steps=steps, message=message
        )
        with work.events.progress(f"{work.name}: train", steps, unit="steps") as advance:
            losses = self._fit(lesson, weights, plateau, lr, work, advance)
        facts = self._facts(chosen, lesson, plateau, losses) | {
            "val_loss_before": round(before, 5), "learns": learns, "weights": denoiser.weights, "lr": lr,
        }  # fmt: skip
        self._save(denoiser, parts, chosen, out)
        write_beside(told, json.dumps(facts))
        shutil.rmtree(work.folder / "checkpoint", ignore_errors=True)
        for name in ("curve.jsonl", "latents.safetensors"):
            (work.folder / name).unlink(missing_ok=True)

    def _parts(self, denoiser: Denoiser, seed: int) -> dict[str, Any]:
        """Give the model its adapter; return the networks that have one, by name, first what draws."""
        targets = self.layers.targets or (*ATTENTION, *(CONVOLUTIONS if denoiser.weights < SMALL else ()))
        parts = {"core": denoiser.core} | (denoiser.encoders if self.layers.text_encoder else {})
        for name, part in parts.items():
            add_adapter(part, rank=self.layers.rank, targets=targets if name == "core" else OF_TEXT, seed=seed)
        if self.learning.checkpointing:
            denoiser.core.train().enable_gradient_checkpointing()
        return parts

    def _fit(
        self, lesson: Lesson, weights: "list[torch.nn.Parameter]", plateau: Plateau, lr: float, work: Work, advance: Any
    ) -> list[float]:
        import torch

        # only what learns is in the checkpoints
        adapter = torch.nn.ParameterList(weights)
        return fit(
            "adapter", adapter, lesson.loss_at, steps=plateau.most, lr=lr, work=work.folder / "checkpoint", ema=0.98,
            betas=(0.9, 0.999), weight_decay=1e-2, seed=work.seed, save_every=self.learning.save_every,
            accumulate=self.learning.accumulate, plateau=plateau,
            judge=lambda averaged: lesson.judge(weights, list(averaged.parameters()), advance), advance=advance,
        )  # fmt: skip

    def _facts(self, chosen: Chosen, lesson: Lesson, plateau: Plateau, losses: list[float]) -> dict[str, Json]:
        ends, shown = plateau.ends_at, chosen.shown
        return {
            "train_images": sum(not one.val and not one.prior for one in shown),
            "val_images": sum(one.val for one in shown),
            "prior_images": sum(one.prior for one in shown),
            "matched": chosen.matched,
            "refused": chosen.refused,
            "steps": ends,
            "best_step": min(ends, (plateau.best + 1) * plateau.every),
            **({"loss": round(float(np.mean(losses[-LAST:])), 5)} if losses else {}),
            "val_loss": round(-plateau.scores[plateau.best], 5),
            "curve": [dict(point) for point in lesson.curve.points],
            "trigger": self.captions.word(self.images.style),
            "captions": sorted({text for one in shown if not one.prior for text in one.captions})[:5],
            "sizes": {f"{wide} × {tall}": n for (wide, tall), n in lesson.sizes.most_common()},
        }

    def _save(self, denoiser: Denoiser, parts: dict[str, Any], chosen: Chosen, out: Path) -> None:
        held = {
            name: {k: v.detach().cpu().contiguous() for k, v in adapter_of(part).items()}
            for name, part in parts.items()
        }
        licences = sorted(
            {str(one.sample.origin.get("licence") or "unknown") for one in chosen.shown if one.sample.origin}
        )
        said = {
            "base_model": self.model,
            "base_model_digest": models.digest(self.model),
            "rank": str(self.layers.rank),
            "trigger": self.captions.word(self.images.style),
            "data_digest": digest(chosen.shown),
            "images": str(sum(not one.prior for one in chosen.shown)),
            "licence": join_licences(models.spec(self.model).licence or "unknown", *licences),
            "refusals": version(),
        }
        core = held.pop("core")
        save_adapter(core, out, pipeline=denoiser.pipeline, more=held, metadata=said)
