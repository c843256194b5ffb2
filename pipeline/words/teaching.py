"""The step `train.language`: a causal language model learns from people's labels to answer with the letter of the rule that applies.

Papers: https://arxiv.org/abs/2106.09685 (LoRA), https://arxiv.org/abs/2312.06674 (Llama Guard: policies that are shuffled, or lack a part)
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from tilth import models
from tilth.claims import Answer
from tilth.data.files import folder_beside
from tilth.data.where import both, one_of
from tilth.engine.fit import fit
from tilth.engine.plateau import Plateau
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.extras import optional
from tilth.pipeline.words.lessons import Asks, Lesson, turns
from tilth.policy import SAFE
from tilth.samples import TEXT

if TYPE_CHECKING:
    import torch

FEW = 20  # held-back texts, below which nothing is judged by them
CHECKS = 16  # of the plateau, at most
LEFT = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
    "verdict.json",
)


@step
class TrainLanguage:
    """Fine-tune a language model to judge texts by the policy that stands before them.

    It learns from texts that people labelled, in train, and stops where those in val gain no more. In a share of the batches categories
    are left out of the policy, or stand in another order: what was one of them is then safe, or has another letter, so the model has to
    read the policy and cannot learn letters by heart. What nobody looked for in a text is no choice there, and costs nothing.

    Args:
        model: Language model to start from.
        method: `lora` learns small matrices beside the weights, which are merged at the end; `full` all weights.
        rank: Of those matrices.
        steps: At most.
        lr: Peak learning rate; 0 for 2e-3 with `lora` and 3e-4 with `full`.
        batch_size: Texts a step.
        changed: Share of the batches with a changed policy.
        max_tokens: Longest case; longer texts are cut there, and counted.
    """

    media: ClassVar[tuple[str, ...]] = (TEXT,)

    model: str = "starter:verdict"
    method: Literal["lora", "full"] = "lora"
    rank: int = 16
    steps: int = 400
    lr: float = 0.0
    batch_size: int = 32
    changed: float = 0.5
    max_tokens: int = 256

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("rank", "steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.changed <= 1:
            raise ValueError(f"changed must lie in [0, 1], got {self.changed}")
        if self.lr < 0 or self.max_tokens < 16:
            raise ValueError(f"lr must be at least 0 and max_tokens at least 16, got {self.lr} and {self.max_tokens}")

    def models(self) -> tuple[str, ...]:
        """The model to start from."""
        return (self.model,)

    def run(self, work: Work) -> Facts:
        """Learn, merge and publish the model under the step's name.

        Raises:
            InputError: Words decide nothing in the policy, people have labelled no text of one kind, or the loss is no number.
        """
        if not work.policy.written:
            raise InputError(f"policy {work.policy.policy}: words decide none of its categories (evidence: text)")
        policy = work.policy.with_categories(work.policy.written)
        place = models.locate(self.model)
        asks = Asks(place, policy)
        train, cut = self._lessons(work, asks, "split not in ('val', 'test')")
        val, _ = self._lessons(work, asks, "split = 'val'")
        counts = Counter(name for one in train for name in one.shows or {SAFE})
        if absent := [name for name in (SAFE, *policy.names) if not counts[name]]:
            told = ", ".join(f"{name} {counts[name]}" for name in (SAFE, *policy.names))
            raise InputError(
                f"{work.name}: people have labelled no text of train as {', '.join(absent)}; there are {told}"
            )
        model = self._open(place)
        lr = self.lr or (2e-3 if self.method == "lora" else 3e-4)
        every = max(1, self.steps // CHECKS)
        judged = len(val) >= FEW
        plateau = Plateau(
            most=self.steps, every=every, patience=4 if judged else 0, gain=0.001, warmup=min(20, self.steps)
        )
        device = models.device(work.device)
        model.to(device)
        asks.read_once(model, train[:2])

        def loss_at(number: int) -> "torch.Tensor":
            rng = np.random.default_rng((work.seed, number))
            some = [train[i] for i in turns(len(train), self.batch_size, number, work.seed)]
            names = _changed(policy.names, rng) if rng.random() < self.changed else policy.names
            return asks.loss(model, some, names)

        def judge(shown: Any) -> float:
            parts = [val[i : i + self.batch_size] for i in range(0, len(val), self.batch_size)]
            return -float(
                np.average(
                    [asks.loss(shown, part, policy.names).item() for part in parts], weights=list(map(len, parts))
                )
            )

        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        whole = sum(p.numel() for p in model.parameters())
        with work.events.progress(work.name, self.steps, unit="steps") as advance:
            losses = fit(
                "language",
                model,
                loss_at,
                steps=self.steps,
                lr=lr,
                work=work.folder,
                weight_decay=0.01,
                seed=work.seed,
                save_every=max(1, self.steps // 8),
                plateau=plateau,
                judge=judge if judged else None,
                advance=advance,
            )
        out = work.folder / "model"
        self._save(model, place, out)
        (work.folder / "language.ckpt").unlink(missing_ok=True)
        work.publish(work.name, out)
        return {
            "texts": len(train),
            "by_category": {name: counts[name] for name in (SAFE, *policy.names)},
            "val": len(val),
            "cut": cut,
            "steps": plateau.ends_at,
            "loss": round(float(np.mean(losses[-20:])), 4) if losses else None,
            "val_loss": round(-max(plateau.scores), 4) if plateau.scores else None,
            "curve": [round(-score, 4) for score in plateau.scores],
            "trained_share": round(trained / whole, 5),
            "policy_read": "once a step" if asks.once else "with each text",
        }

    def _lessons(self, work: Work, asks: Asks, where: str) -> tuple[list[Lesson], int]:
        """Read the texts that people labelled; return them, and how many were cut."""
        found, cut = [], 0
        states = one_of("state", ("reviewed", "confirmed_empty"))
        for sample in work.dataset.samples(both(states, where)):
            truth = sample.truth
            knows = frozenset(name for name in asks.policy.names if truth.of(name) is not Answer.UNASKED)
            if knows:
                ids = asks.case(sample.text())
                cut += len(ids) > self.max_tokens
                kept = ids if len(ids) <= self.max_tokens else asks.case(sample.text(), self.max_tokens)
                found.append(Lesson(ids=tuple(kept), shows=truth.categories & knows, knows=knows))
        return found, cut

    def _open(self, place: Path) -> Any:
        with optional():
            import torch
            from peft import LoraConfig, get_peft_model
            from transformers import AutoModelForCausalLM
        opened: Any = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, use_safetensors=True)
        if self.method == "full":
            return opened
        torch.manual_seed(0)
        config = LoraConfig(r=self.rank, lora_alpha=2 * self.rank, target_modules="all-linear", task_type="CAUSAL_LM")
        return get_peft_model(opened, config)

    def _save(self, model: Any, place: Path, out: Path) -> None:
        """Write the merged model, and the adapter alone beside it, which peft loads."""
        with folder_beside(out) as partial:
            if self.method == "lora":
                model.save_pretrained(partial / "adapter", safe_serialization=True)
                model = model.merge_and_unload()
            model.save_pretrained(partial, safe_serialization=True)
            for name in LEFT:
                if (place / name).exists():
                    shutil.copy(place / name, partial / name)


def _changed(names: Sequence[str], rng: np.random.Generator) -> tuple[str, ...]:
    """Leave some categories out, one at least stays, and put the others in another order."""
    few = int(rng.integers(1, len(names) + 1))
    return tuple(str(name) for name in rng.permutation(list(names))[:few])
