"""The step `train.speech`: a speech foundation model learns from people's labels which categories are heard."""

import json
from dataclasses import asdict, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tilth import models
from tilth.data.files import folder_beside
from tilth.data.where import both, one_of
from tilth.engine.fit import fit
from tilth.engine.plateau import Plateau
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.errors import InputError, ModelError
from tilth.samples import SOUND
from tilth.train.speech.clips import Clips, read_clips, view
from tilth.train.speech.settings import Tuning, Views

if TYPE_CHECKING:
    import torch

    from tilth.train.speech.body import Listener

FEW = 20  # held-back clips, below which nothing is judged by them
CHECKS = 12  # of the plateau, at most
ADAPTER = "adapter.safetensors"
SETTINGS = "speech.json"


@step
class TrainSpeech:
    """Tune a speech model to hear the policy's categories whose evidence is sound.

    It learns from sounds that people labelled, in train, and stops where those in val gain no more. What nobody listened for in a sound
    costs nothing. What it leaves is the small file of all that was learned, which lies beside the model that it was learned on.

    Args:
        model: Speech model to start from: HuBERT, WavLM, wav2vec2 or Whisper, whose encoder is taken.
        tuning: What is learned of it.
        views: How clips are made worse meanwhile.
        seconds: Length of a clip; longer sounds are cut into several, which overlap by half.
        steps: At most.
        lr: Peak learning rate of the head; 0 for 5e-3, or 2e-3 when all weights learn.
        batch_size: Clips a step.
    """

    media: ClassVar[tuple[str, ...]] = (SOUND,)

    model: str = "starter:speech"
    tuning: Tuning = field(default_factory=Tuning)
    views: Views = field(default_factory=Views)
    seconds: float = 2.0
    steps: int = 400
    lr: float = 0.0
    batch_size: int = 16

    def __post_init__(self) -> None:
        """Check the numbers."""
        if min(self.steps, self.batch_size) < 1:
            raise ValueError(f"steps and batch_size must be at least 1, got {self.steps} and {self.batch_size}")
        if not 0.1 <= self.seconds <= 30 or self.lr < 0:
            raise ValueError(f"seconds must lie in [0.1, 30] and lr be at least 0, got {self.seconds} and {self.lr}")

    def models(self) -> tuple[str, ...]:
        """The model to start from."""
        return (self.model,)

    def run(self, work: Work) -> Facts:
        """Learn, and publish what was learned under the step's name.

        Raises:
            InputError: The policy hears nothing, or people have labelled no sound of one kind.
        """
        from tilth.train.speech.body import Listener

        names = heard_by(work)
        people = one_of("state", ("reviewed", "confirmed_empty"))
        train = self._read(work, names, both(people, "split not in ('val', 'test')"), "train")
        held = both(people, "split = 'val'")
        val = self._read(work, names, held, "val") if work.dataset.count(held) else None
        counts = {name: int((train.heard & train.known)[:, k].sum()) for k, name in enumerate(names)}
        if absent := [name for name, count in counts.items() if not count]:
            raise InputError(f"{work.name}: people have labelled no sound of train as {', '.join(absent)}")
        model = Listener(models.locate(self.model), len(names), self.tuning, work.seed)
        device = models.device(work.device)
        model.to(device)
        judged = val is not None and len(val) >= FEW
        plateau = Plateau(
            most=self.steps, every=max(1, self.steps // CHECKS), patience=6 if judged else 0, gain=0.001, warmup=min(20, self.steps)
        )  # fmt: skip

        def loss_at(number: int) -> "torch.Tensor":
            rng = np.random.default_rng((work.seed, number))
            chosen = rng.integers(0, len(train), self.batch_size)
            waves = np.stack([view(train.wave(int(place)), self.views, rng) for place in chosen])
            return _loss(model, waves, train, chosen)

        def judge(shown: Any) -> float:
            assert val is not None
            parts = [np.arange(i, min(len(val), i + 32)) for i in range(0, len(val), 32)]
            losses = [_loss(shown, np.stack([val.wave(int(i)) for i in part]), val, part).item() for part in parts]
            return -float(np.average(losses, weights=list(map(len, parts))))

        learned = model.learned()
        trained, whole = (sum(p.numel() for p in some) for some in (learned.values(), model.parameters()))
        with work.events.progress(work.name, self.steps, unit="steps") as advance:
            losses = fit(
                "speech",
                model,
                loss_at,
                steps=self.steps,
                lr=self.lr or (5e-3 if self.tuning.body == "frozen" else 2e-3),
                groups=self._groups(model),
                work=work.folder,
                weight_decay=0.01,
                seed=work.seed,
                save_every=max(1, self.steps // 8),
                plateau=plateau,
                judge=judge if judged else None,
                advance=advance,
            )
        out = work.folder / "model"
        size = self._save(model, names, out)
        for name in ("speech.ckpt", "train.clips", "val.clips"):
            (work.folder / name).unlink(missing_ok=True)
        work.publish(work.name, out)
        return {
            "clips": len(train),
            "by_category": counts,
            "val": len(val) if val is not None else 0,
            "steps": plateau.ends_at,
            "loss": round(float(np.mean(losses[-20:])), 4) if losses else None,
            "val_loss": round(-max(plateau.scores), 4) if plateau.scores else None,
            "curve": [round(-score, 4) for score in plateau.scores],
            "trained": trained,
            "trained_share": round(trained / whole, 5),
            "adapter_mb": round(size / 2**20, 4),
        }

    def _read(self, work: Work, names: tuple[str, ...], where: str, split: str) -> Clips:
        return read_clips(work.dataset, where, names, self.seconds, work.folder / f"{split}.clips")

    def _groups(self, model: "Listener") -> list[dict[str, object]]:
        """Part what is learned: the head and the weights of layers as fast as told, what changes the body slower."""
        learned = model.learned()
        quick = [p for name, p in learned.items() if name.startswith(("head.", "weights"))]
        slow = [p for name, p in learned.items() if not name.startswith(("head.", "weights"))]
        scale = 0.5 if self.tuning.body == "frozen" else 0.15
        return [{"params": some, "scale": s} for some, s in ((quick, 1.0), (slow, scale)) if some]

    def _save(self, model: "Listener", names: tuple[str, ...], out: Path) -> int:
        """Write what was learned and what it needs to be used; return the size of the adapter in bytes."""
        from safetensors.torch import save_file

        told = {
            "model": self.model,
            "digest": models.digest(self.model),
            "categories": list(names),
            "seconds": self.seconds,
            "tuning": asdict(self.tuning),
        }
        with folder_beside(out) as partial:
            partial.mkdir(parents=True, exist_ok=True)
            save_file(
                {name: value.detach().cpu().contiguous() for name, value in model.learned().items()}, partial / ADAPTER
            )
            (partial / SETTINGS).write_text(json.dumps(told, indent=2), encoding="utf-8")
        return (out / ADAPTER).stat().st_size


def heard_by(work: Work) -> tuple[str, ...]:
    """Name the policy's categories that are heard.

    Raises:
        InputError: There are none.
    """
    if not work.policy.heard:
        raise InputError(f"policy {work.policy.policy}: none of its categories is heard (evidence: sound)")
    return tuple(category.name for category in work.policy.heard)


def _loss(model: Any, waves: Any, clips: Clips, chosen: Any) -> "torch.Tensor":
    """Return the mean cross-entropy over what is known."""
    import torch
    from torch.nn import functional

    device = next(model.parameters()).device
    logits = model(torch.tensor(waves, device=device))
    heard, known = (
        torch.tensor(some[chosen], dtype=torch.float32, device=device) for some in (clips.heard, clips.known)
    )
    each = functional.binary_cross_entropy_with_logits(logits, heard, reduction="none")
    told: torch.Tensor = (each * known).sum() / known.sum().clamp(min=1)
    return told


def open_listener(folder: Path, device: str) -> tuple["Listener", dict[str, Any]]:
    """Open what `train.speech` left, ready to hear, and what it says of itself.

    Raises:
        ModelError: The model beside which it was learned is another one now, or the folder holds no such thing.
    """
    from safetensors.torch import load_file

    from tilth.train.speech.body import Listener

    try:
        told = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: not what train.speech leaves: {error}") from error
    if models.digest(told["model"]) != told["digest"]:
        raise ModelError(f"{told['model']} is not the model any more that {folder} was learned beside; train again")
    listener = Listener(models.locate(told["model"]), len(told["categories"]), Tuning(**told["tuning"]))
    listener.take(load_file(folder / ADAPTER))
    return listener.to(device).eval(), told
