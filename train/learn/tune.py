"""Look for better settings of a training: short trainings with settings that a search proposes, judged on held-back images.

The search is Optuna's: its default sampler learns from the trainings so far what to propose, and a training that is worse than most
were at the same step is given up. What would be taken without a search is tried first, so that nothing is worse on these images for
having searched. Paper: https://arxiv.org/abs/1907.10902
"""

import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilth.engine.work import Work
from tilth.train.learn.methods import METHODS, Choice

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

PART = 3  # a training of the search takes a third of the steps
WIDTH = 10.0  # rates and decays are looked for from a tenth of what would be taken to ten times as much
WATCHED = 4  # trainings that run to their end before any is given up

Learn = Callable[[Choice, Path, Callable[[int, float], None]], float]
"""Trains with some settings in a folder, says the score at each check, and returns the best."""


def tune(
    work: Work, count: int, said: Choice, settle: Callable[[Choice], Choice], learn: Learn
) -> tuple[Choice, dict[str, Any]]:
    """Search; a search that was killed goes on after its last finished training.

    Args:
        work: Of the step.
        count: Trainings.
        said: What is said about how the model learns, which stays.
        settle: Chooses what is not said.
        learn: Trains.

    Returns:
        The best settings, and what is to be told of the search.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = work.folder / "tuning"
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=optuna.storages.JournalStorage(JournalFileBackend(str(folder / "journal.log"))), study_name="tune",
        direction="maximize", load_if_exists=True, pruner=optuna.pruners.MedianPruner(n_startup_trials=WATCHED),
    )  # fmt: skip
    first = settle(said)
    if not study.trials:
        study.enqueue_trial({"rate": 1.0, "decay": 1.0, "method": first.method, "slower": first.slower})

    def one(trial: "Trial") -> float:
        chosen = _proposed(trial, said, settle)

        def noted(at: int, score: float) -> None:
            trial.report(score, at)
            if trial.should_prune():
                raise optuna.TrialPruned

        own = folder / f"{trial.number}"
        try:
            return learn(replace(chosen, steps=max(1, chosen.steps // PART)), own, noted)
        finally:
            shutil.rmtree(own, ignore_errors=True)

    def ended() -> "list[FrozenTrial]":
        return [trial for trial in study.trials if trial.state.name in ("COMPLETE", "PRUNED")]

    while (done := len(ended())) < count:
        study.sampler = optuna.samplers.TPESampler(seed=work.seed + done)  # proposes after a kill what it would have
        study.optimize(one, n_trials=1)
        latest = ended()[-1]
        score = f"{latest.value:.4f}" if latest.state.name == "COMPLETE" else "given up"
        how = _proposed(latest, said, settle)
        settings = f"{how.method}, lr {how.lr:.2g}, decay {how.decay:.2g}, slower {how.slower:.2g}"
        work.events.emit("tuned", step=work.name, message=f"  training {done + 1} of {count}: {score} with {settings}")
    best = _proposed(study.best_trial, said, settle)
    told = {
        "best": round(study.best_value, 4), "without": round(float(ended()[0].value or 0), 4), "trainings": len(ended()),
        "settings": asdict(best),
    }  # fmt: skip
    return best, {"tuned": told}


def _proposed(trial: Any, said: Choice, settle: Callable[[Choice], Choice]) -> Choice:
    """Return what a search proposes, around what would be taken; what was said in so many words stays."""
    method = trial.suggest_categorical("method", METHODS[1:]) if said.method == "auto" else said.method
    usual = settle(replace(said, method=method))
    slower = trial.suggest_float("slower", 0.05, 1.0) if method == "full" and not said.slower else usual.slower
    rate = 1.0 if said.lr else trial.suggest_float("rate", 1 / WIDTH, WIDTH, log=True)
    decay = trial.suggest_float("decay", 1 / WIDTH, WIDTH, log=True)
    return replace(usual, lr=usual.lr * rate, decay=usual.decay * decay, slower=slower)
