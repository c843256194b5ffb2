"""The step `train.router`: cheap numbers learn from labelled texts which ones the language model need not be asked about."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from tilth.annotate.review.effort import share_ci95
from tilth.claims import Answer, Json
from tilth.data.files import folder_beside
from tilth.data.where import both, one_of
from tilth.engine.steps import Facts, group, step
from tilth.engine.work import Work
from tilth.pipeline.words.judging import Asked, Reads
from tilth.pipeline.words.lines import LEAST, Array, Cases, fit, outputs_of
from tilth.runtime.bundles.routing import write_router
from tilth.runtime.stages.route import NUMBERS, Costs, Ids, Line, Router, Way, read_text
from tilth.samples import TEXT, Sample
from tilth.train.learn.fine_tune import check_states

PEOPLE = ("reviewed", "confirmed_empty")  # states
CHECKED = "split = 'val'"  # of which the rates of a model are taken that learned from the others


@group
class Prices:
    """What things cost, in whatever unit.

    Args:
        missed: A harmful case that is cleared.
        false_alarm: A harmless one that is blocked.
        check: An answer of the language model.
        review: A person's look.
    """

    missed: float = 100.0
    false_alarm: float = 20.0
    check: float = 1.0
    review: float = 10.0

    def __post_init__(self) -> None:
        """Check that there is anything to weigh."""
        prices = {"missed": self.missed, "false_alarm": self.false_alarm, "check": self.check, "review": self.review}
        for name, price in prices.items():
            if not (np.isfinite(price) and price > 0):
                raise ValueError(
                    f"{name} must be above 0, got {price}: were it free, all or nothing would be sent there"
                )


@dataclass(frozen=True, kw_only=True, eq=False)
class Told:
    """What a language model says of n texts that people labelled.

    Args:
        scores: The highest of the categories, `(n,)`.
        harmful: Whether people found any category, `(n,)`.
    """

    scores: Array
    harmful: Array


@step
class TrainRouter(Asked):
    """Learn which texts are clear, which are to be blocked, and which the language model or a person is to judge, to a stated cost.

    It learns from the texts that people labelled, and from what `judge` said of others. How likely a text is harmful is calibrated on
    people's labels alone, of texts that were held out; how good the language model is, on those of `val`. With few of these it
    clears nothing, and says so. The folder is published under the step's name; `package` takes it as `router`.

    Args:
        prices: What things cost.
        states: Of the samples that it learns from, among `reviewed`, `confirmed_empty` and `auto`.
        most: Texts at most; those that people labelled come first.
    """

    media: ClassVar[tuple[str, ...]] = (TEXT,)

    prices: Prices = field(default_factory=Prices)
    states: tuple[str, ...] = ("reviewed", "confirmed_empty", "auto")
    most: int = 50_000

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        check_states(self.states)
        if not set(PEOPLE) & set(self.states) or self.most < 1:
            raise ValueError(
                f"states need one of {' and '.join(PEOPLE)}, and most at least 1, got {self.states}, {self.most}"
            )

    def run(self, work: Work) -> Facts:
        """Learn, choose by the cost, and publish.

        Raises:
            InputError: Words decide nothing in the policy, people labelled too few texts, or the language model cannot judge by the policy.
        """
        reads = self.reads(work)
        cases = texts_of(work, self.states, self.most)
        told = ask(work, reads, "split != 'test'" if not self.trained else CHECKED)
        costs, rates = self._costs(told)
        line, chances, known = fit(cases, costs, seed=work.seed)
        out = work.folder / "router"
        work.folder.mkdir(parents=True, exist_ok=True)
        facts: dict[str, Json] = {"learned_from": len(cases), "made": work.now()}
        if out.exists():
            shutil.rmtree(out)
        with folder_beside(out) as partial:
            partial.mkdir(parents=True)
            write_router(partial, Router(text=line), work.policy, facts)
        work.publish(work.name, out)
        notes = self._notes(line, rates)
        for note in notes:
            work.events.emit("note", step=work.name, message=f"  note: {note}")
        return {
            "texts": len(cases),
            "labelled_by_people": int(cases.told.sum()),
            "harmful": int((cases.shown[:, 0] & cases.told).sum()),
            "runs_of_letters": len(line.ids),
            "size_mb": round(sum(path.stat().st_size for path in out.iterdir()) / 2**20, 2),
            "language_model": rates,
            "trusted": list(line.trusted),
            "known_from": round(line.known_from, 4),
            "held_out": promised(line, cases, chances, known),
            "notes": notes,
        }

    def _costs(self, told: Told) -> tuple[Costs, dict[str, Json]]:
        """Put the rates of the language model into the cost; a model of which too few texts tell is taken for right always."""
        p = self.prices
        prices = Costs(missed=p.missed, false_alarm=p.false_alarm, check=p.check, review=p.review)
        flagged, harmful = told.scores >= self.min_score, told.harmful
        rates: dict[str, Json] = {"harmful": int(harmful.sum()), "harmless": int((~harmful).sum())}
        if min(harmful.sum(), (~harmful).sum()) < LEAST:
            return prices, rates
        # one hit and one miss more than were counted: no model is perfect for being asked rarely
        recall = float(((flagged & harmful).sum() + 1) / (harmful.sum() + 2))
        false = float(((flagged & ~harmful).sum() + 1) / ((~harmful).sum() + 2))
        rates |= {"recall": round(recall, 4), "false_positives": round(false, 4)}
        costs = Costs(
            missed=p.missed,
            false_alarm=p.false_alarm,
            check=p.check,
            review=p.review,
            recall=recall,
            false_positives=false,
        )
        return costs, rates

    def _notes(self, line: Line, rates: dict[str, Json]) -> list[str]:
        notes = []
        if line.outputs[0] not in line.trusted:
            notes.append(f"nothing is cleared or blocked: people found fewer than {LEAST} texts harmful, or harmless")
        elif weak := [name for name in line.outputs if name not in line.trusted]:
            notes.append(f"nothing is cleared, nor blocked for {', '.join(weak)}: fewer than {LEAST} texts show it")
        if "recall" not in rates:
            notes.append(f"the language model counts as always right: fewer than {LEAST} texts of either kind tell")
        return notes


def texts_of(work: Work, states: tuple[str, ...], most: int) -> Cases:
    """Read labelled texts, but sealed ones, those that people labelled first."""
    names = tuple(category.name for category in work.policy.written)
    runs: list[Ids] = []
    numbers: list[list[float]] = []
    shown: list[list[bool]] = []
    sure: list[list[bool]] = []
    people: list[bool] = []
    lengths: list[int] = []
    for some in ([s for s in states if s in PEOPLE], [s for s in states if s not in PEOPLE]):
        if not some:
            continue
        for sample in work.dataset.samples(both(one_of("state", tuple(some)), "split != 'test'")):
            if len(runs) == most:
                break
            text = sample.text()
            own, told = read_text(text)
            said, looked = answers(sample, names)
            runs.append(own)
            numbers.append(told)
            shown.append(said)
            sure.append(looked)
            people.append(some[0] in PEOPLE)
            lengths.append(len(text))
    n, k = len(runs), len(names) + 1
    return Cases(
        runs=runs, numbers=np.array(numbers).reshape(n, len(NUMBERS)), names=NUMBERS, outputs=outputs_of(names),
        shown=np.array(shown, bool).reshape(n, k), sure=np.array(sure, bool).reshape(n, k), people=np.array(people, bool),
        lengths=np.array(lengths, int),
    )  # fmt: skip


def answers(sample: Sample, names: tuple[str, ...]) -> tuple[list[bool], list[bool]]:
    """Return which outputs apply to a sample, and of which that is known: harmless is only what was looked at for everything."""
    said = [sample.truth.of(name) for name in names]
    shown = [one is Answer.PRESENT for one in said]
    sure = [one is not Answer.UNASKED for one in said]
    return [any(shown), *shown], [any(shown) or all(sure), *sure]


def ask(work: Work, reads: Reads, where: str) -> Told:
    """Ask a language model about the texts that people labelled, of a part of the dataset; what it says is not kept there."""
    names = tuple(category.name for category in work.policy.written)
    wanted = both(where, one_of("state", PEOPLE))
    scores: list[float] = []
    harmful: list[bool] = []
    if total := work.dataset.count(wanted):
        says = reads.load()
        with work.events.progress(work.name, total, unit="texts") as advance:
            for some in work.dataset.scan(wanted, batch_rows=reads.batch_size):
                for sample, result in zip(some, says(some), strict=True):
                    shown, sure = answers(sample, names)
                    told = result.columns[f"{reads.name}.scores"]
                    if sure[0] and isinstance(told, Mapping):
                        scores.append(max((float(str(one)) for one in told.values()), default=0.0))
                        harmful.append(shown[0])
                advance(len(some))
    return Told(scores=np.array(scores), harmful=np.array(harmful, bool))


def promised(line: Line, cases: Cases, chances: Array, known: Array) -> dict[str, Json]:
    """Say what the router did with people's cases that it had not learned from: how many went each way, and what that missed."""
    ways = np.array([
        Way.CHECK if known[i] < line.known_from else line.way(dict(zip(line.outputs, map(float, chances[i]), strict=True))).way
        for i in range(len(cases))
    ])  # fmt: skip
    told, harmful = cases.told, cases.shown[:, 0]
    cleared, blocked = (told & (ways == way) for way in (Way.CLEAR, Way.BLOCK))
    missed, wrong = int((cleared & harmful).sum()), int((blocked & ~harmful).sum())
    n = int(told.sum())
    return {
        "ways": {str(way): round(float((ways[told] == way).sum() / n), 4) for way in Way},
        "missed": {"mean": round(missed / max(1, int((told & harmful).sum())), 4),
                   "ci95": share_ci95(missed, int((told & harmful).sum()))},
        "blocked_wrongly": {"mean": round(wrong / max(1, int((told & ~harmful).sum())), 4),
                            "ci95": share_ci95(wrong, int((told & ~harmful).sum()))},
    }  # fmt: skip
