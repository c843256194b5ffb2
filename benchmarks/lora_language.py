"""How fast does a language model learn to judge texts: `train.language` beside transformers' Trainer, by LoRA, on the same texts.

    python benchmarks/lora_language.py --seeds 1-3

A seed is a world of words of its own with 600 labelled texts, and 400 others to judge by. Both start from `starter:verdict`, with the
same LoRA (all linear layers, rank 16), AdamW, peak rate, batch of 32, one thread; the policy is not changed between batches, as Trainer's
cannot be. Trainer is given what its users give it: prompt and letter as one row, the prompt masked out of the loss (what trl's SFTTrainer
calls `completion_only_loss`), rows of a batch padded to the longest, rates that fall in a line. Every 15 steps both are judged by the same:
the mean loss of the right letter among the letters of the policy, over texts that neither learned from. Judging takes no part in the times,
which are of the processor, not of the clock, so that other work on the machine tells less; who goes first turns from seed to seed. Told
are means over seeds with 95 % t intervals:

    speedup        Trainer's seconds to the lowest loss that both reached, over ours
    step_speedup   Trainer's seconds a step over ours
    loss, trainer_loss     the lowest that each reached
    adapter_loads  whether peft reads what ours left, and says the same

Takes about six minutes a seed on a core.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures import Figures, add_option
from loop import seeds_of
from loop_figures import note
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from tilth import models
from tilth.engine.fit import fit
from tilth.pipeline.words.lessons import Asks, Lesson, turns
from tilth.policy import SAFE, load_policy
from tilth.runtime.judges.rows import encode
from tilth.runtime.stages.template import DEFINED, rules
from tilth.starter.protocols.words import CATEGORIES, draw_words
from tilth.train.artifacts.export import verdict_settings

ROOT = Path(__file__).parents[1]
POLICY = ROOT / "configs" / "policies" / "starter.yaml"
TRAIN, JUDGED = 600, 400
STEPS, EVERY, WARMUP, BATCH, RANK, PEAK = 120, 15, 20, 32, 16, 2e-3
NAMES = tuple(CATEGORIES)

Curve = list[tuple[float, float]]  # seconds of the processor so far, and the loss there


class Watch:
    """Counts the processor's seconds while something learns, and notes what it has learned by then.

    Args:
        asks: Tells the loss.
        judged: Texts of which.
    """

    def __init__(self, asks: Asks, judged: Sequence[Lesson]) -> None:
        self.curve: Curve = []
        self._asks, self._judged = asks, judged
        self._spent, self._began = 0.0, time.process_time()

    def look(self, model: Any) -> float:
        """Note the loss now; return it."""
        self._spent += time.process_time() - self._began
        training = model.training
        model.eval()
        parts = [self._judged[i : i + 100] for i in range(0, len(self._judged), 100)]
        with torch.inference_mode():
            loss = float(np.mean([self._asks.loss(model, part, NAMES).item() for part in parts]))
        model.train(training)
        self.curve.append((self._spent, loss))
        self._began = time.process_time()
        return loss


def fresh() -> Any:
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(models.locate("starter:verdict"), use_safetensors=True)
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(base, config)


def rate(step: int) -> float:
    """Rise over the warm-up, then fall in a line to nothing."""
    return PEAK * min((step + 1) / WARMUP, (STEPS - step) / (STEPS - WARMUP))


def ours(asks: Asks, train: Sequence[Lesson], judged: Sequence[Lesson], seed: int) -> tuple[Any, Curve]:
    model = fresh()
    watch = Watch(asks, judged)
    asks.read_once(model, train[:2])

    def loss_at(step: int) -> torch.Tensor:
        if step % EVERY == 0:
            watch.look(model)
        return asks.loss(model, [train[i] for i in turns(len(train), BATCH, step, seed)], NAMES)

    fit("language", model, loss_at, steps=STEPS, lr=PEAK, work=None, rate=rate, weight_decay=0.01, seed=seed)
    watch.look(model)
    return model, watch.curve


class Learner(Trainer):
    """Trainer, whose loader hands over all that a row is."""

    def get_train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train_dataset, BATCH, shuffle=True, collate_fn=self.data_collator, drop_last=True)  # type: ignore[arg-type]


def trainer(asks: Asks, train: Sequence[Lesson], judged: Sequence[Lesson], seed: int) -> Curve:
    model = fresh()
    place = models.locate("starter:verdict")
    tokenizer = Tokenizer.from_file(str(place / "tokenizer.json"))
    letters = verdict_settings(place, (SAFE, *NAMES), DEFINED)["label_token_ids"]
    means = {category.name: category.definition for category in asks.policy.categories}
    begins = encode(tokenizer, rules((SAFE, *NAMES), means), special=True, begins=True)
    rows = []
    for one in train:
        letter = letters[[SAFE, *NAMES].index(next(iter(one.shows), SAFE))]
        prompt = [*begins, *one.ids]
        rows.append({"ids": [*prompt, letter], "labels": [-100] * len(prompt) + [letter]})

    def collate(some: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        longest = max(len(row["ids"]) for row in some)
        padded = {
            "input_ids": [row["ids"] + [0] * (longest - len(row["ids"])) for row in some],
            "attention_mask": [[1] * len(row["ids"]) + [0] * (longest - len(row["ids"])) for row in some],
            "labels": [row["labels"] + [-100] * (longest - len(row["ids"])) for row in some],
        }
        return {name: torch.tensor(values) for name, values in padded.items()}

    watch = Watch(asks, judged)

    class Look(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step % EVERY == 0:
                watch.look(model)

    with tempfile.TemporaryDirectory() as name:
        arguments = TrainingArguments(
            output_dir=name,
            max_steps=STEPS,
            per_device_train_batch_size=BATCH,
            learning_rate=PEAK,
            lr_scheduler_type="linear",
            warmup_steps=WARMUP,
            weight_decay=0.01,
            adam_beta2=0.99,
            seed=seed,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        learner = Learner(model=model, args=arguments, train_dataset=rows, data_collator=collate, callbacks=[Look()])  # type: ignore[arg-type]
        learner.train()
    watch.look(model)
    return watch.curve


def until(curve: Curve, loss: float) -> float:
    """Return the seconds until a loss was reached, in a line between two looks."""
    for (before, high), (after, low) in pairwise(curve):
        if low <= loss:
            return before + (after - before) * (high - loss) / max(high - low, 1e-12)
    raise ValueError(f"{loss} was never reached")


def loads(model: Any, asks: Asks, judged: Sequence[Lesson]) -> bool:
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        model.save_pretrained(name, safe_serialization=True)
        base = AutoModelForCausalLM.from_pretrained(models.locate("starter:verdict"), use_safetensors=True)
        again = PeftModel.from_pretrained(base, name).eval()
        pair = [asks.loss(one.eval(), judged[:100], NAMES).item() for one in (model, again)]
    return abs(pair[0] - pair[1]) < 1e-5


def one(seed: int) -> dict[str, float]:
    policy = load_policy(POLICY)
    asks = Asks(models.locate("starter:verdict"), policy.with_categories(policy.written))
    drawn = [draw_words(n, 1000 + seed) for n in range(TRAIN + JUDGED)]
    shown = [frozenset({row["label"]} - {SAFE}) for row in drawn]
    lessons = [
        Lesson(ids=tuple(asks.case(row["text"])), shows=shows, knows=frozenset(NAMES))
        for row, shows in zip(drawn, shown, strict=True)
    ]
    train, judged = lessons[:TRAIN], lessons[TRAIN:]
    curves: dict[str, Curve] = {}
    for who in ("ours", "trainer")[:: 1 if seed % 2 else -1]:
        if who == "ours":
            model, curves["ours"] = ours(asks, train, judged, seed)
        else:
            curves["trainer"] = trainer(asks, train, judged, seed)
    lowest = {who: min(loss for _, loss in curve) for who, curve in curves.items()}
    common = max(lowest.values())
    seconds = {who: until(curve, common) for who, curve in curves.items()}
    found = {
        "speedup": seconds["trainer"] / seconds["ours"],
        "step_speedup": curves["trainer"][-1][0] / curves["ours"][-1][0],
        "loss": lowest["ours"],
        "trainer_loss": lowest["trainer"],
        "untrained_loss": curves["ours"][0][1],
        "seconds": curves["ours"][-1][0],
        "trainer_seconds": curves["trainer"][-1][0],
        "adapter_loads": float(loads(model, asks, judged)),
    }
    print(f"seed {seed}: " + ", ".join(f"{name} {value:.4g}" for name, value in found.items()), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=seeds_of, default=[1, 2, 3], help="such as 1-3 (default: 1-3)")
    add_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    figures = Figures("lora_language", seeds=args.seeds)
    rows = [one(seed) for seed in args.seeds]
    for name in rows[0]:
        unit = (
            "seconds"
            if "seconds" in name
            else "share"
            if name == "adapter_loads"
            else "times"
            if "speedup" in name
            else "nats"
        )
        note(figures, name, [row[name] for row in rows], unit)
    figures.write(args.results)


if __name__ == "__main__":
    main()
