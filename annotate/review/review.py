"""The step `review`: people look at the images that matter most, and every action of theirs is counted."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from tilth.annotate.review.asking import Asking
from tilth.annotate.review.effort import SECONDS_PER_ACTION, SECONDS_SOURCE, audited, count_effort
from tilth.annotate.review.people import ask_people
from tilth.annotate.review.reviewer import Reviewed, label_by_truth, label_made, read_made_truth, read_truth
from tilth.claims import Json
from tilth.data.where import both, lacks
from tilth.engine.steps import Facts, Mapper, inputs_digest, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.samples import Result, Sample


@step
class Simulate:
    """Review images by the truth."""

    name: str
    why: dict[str, str]
    truth: Path
    truth_digest: str
    made_truth: str
    categories: tuple[str, ...]
    policy: str
    error_rate: float
    seed: int
    batch_size: int = 64

    def models(self) -> tuple[str, ...]:
        """None."""
        return ()

    def load(self) -> Callable[[Sequence[Sample]], list[Result]]:
        """Read the truth of the images in the queue."""
        truth = read_truth(self.truth, self.why)
        made = read_made_truth(Path(self.made_truth)) if self.made_truth else {}

        def review(samples: Sequence[Sample]) -> list[Result]:
            return [self._result(sample, self._review(sample, truth, made)) for sample in samples]

        return review

    def _review(self, sample: Sample, truth: Mapping[str, Any], made: Mapping[str, str]) -> Reviewed:
        # what people have said of other categories is settled
        asked = sample.to_ask(self.categories) or self.categories
        said = (*sample.truth.labels, *sample.suspected)
        shown = [label for label in said if label.category in asked or asked == self.categories]
        if sample.id in truth:
            boxes = [(category, box) for category, box in truth[sample.id] if category in asked]
            say = partial(label_by_truth, sample.id, boxes)
        elif sample.id in made:
            say = partial(label_made, sample.id, made[sample.id] if made[sample.id] in asked else "")
        else:
            raise InputError("the simulated reviewer does not know this image")
        return say(
            shown,
            categories=asked,
            error_rate=self.error_rate,
            seed=self.seed,
            round_=next_round(sample),
            policy=self.policy,
        )

    def _result(self, sample: Sample, done: Reviewed) -> Result:
        columns: dict[str, Json] = {
            f"{self.name}.actions": list(done.actions),
            f"{self.name}.seconds": done.seconds,
            f"{self.name}.why": self.why[sample.id],
            f"{self.name}.before": {"right": done.right, "shown": done.shown, "present": done.present},
        }
        return Result(claims=done.claims, columns=columns)


def next_round(sample: Sample) -> int:
    """Return the number of the next review of an image."""
    rounds = [claim.evidence.get("round") for claim in sample.claims if claim.kind == "human"]
    return 1 + max((number for number in rounds if isinstance(number, int)), default=0)


@step
class Review(Asking):
    """Have people correct the labels of chosen images."""

    def inputs(self) -> tuple[Path, ...]:
        """The truth files."""
        return tuple(path for path in (self.truth, self.made_truth) if path)

    def _truth(self) -> Path:
        """Return the file that says what each sample shows.

        Raises:
            InputError: None is named.
        """
        if self.truth is None:
            raise InputError(
                f"a simulated review needs the setting truth: a file that says what each {self.media[0]} shows"
            )
        return self.truth

    def _made_truth(self, work: Work) -> Path | None:
        return self.made_truth or work.artifacts.get("made_truth")

    def known(self, work: Work) -> set[str]:
        """Return the samples that the simulated reviewer knows."""
        made = self._made_truth(work)
        return set(read_truth(self._truth())) | (set(read_made_truth(made)) if made else set())

    def simulated(self, work: Work, why: dict[str, str]) -> Mapper:
        """Return the simulated reviewer of the samples that were chosen, each for a reason."""
        truth, made = self._truth(), self._made_truth(work)
        return Simulate(
            name=work.name,
            why=why,
            truth=truth,
            truth_digest=inputs_digest([p for p in (truth, made) if p]),
            made_truth=str(made or ""),
            categories=tuple(category.name for category in self.asked(work.policy)),
            policy=work.policy.tag,
            error_rate=self.error_rate,
            seed=work.seed,
        )

    def run(self, work: Work) -> Facts:
        """Choose, ask, count.

        Raises:
            InputError: The simulated review has no truth, or the backend is unknown.
            Unavailable: People have not finished yet, or Label Studio is down; the same command goes on.
        """
        backend = work.options.get("review") or self.backend
        audits = audited(facts for facts in work.facts.values() if "labels_before_review" in facts)
        lower = min(cast("list[float]", audits[name])[0] for name in ("precision_ci95", "recall_ci95"))
        if self.good_enough and lower >= self.good_enough:
            work.events.emit(
                "good_enough", step=work.name, message=f"  labels are good enough ({lower:.1%}); nobody is asked"
            )
            return {
                "backend": backend,
                "audits_before": audits,
                "enough": True,
                "human_actions": 0,
                "images_reviewed": 0,
            }
        if backend == "labelstudio":
            return ask_people(self, work)
        if backend != "simulated":
            raise InputError(f"review backend must be simulated or labelstudio, got {backend!r}")
        known = self.known(work)
        wanted = self.wanted(work)
        candidates, reviewable = work.dataset.count(wanted), work.dataset.count(wanted, ids=known)
        categories = tuple(category.name for category in self.asked(work.policy))
        unasked = {n: work.dataset.count(both(wanted, f"not people or {lacks('decided', [n])}")) for n in categories}
        why = self.queue(work, known)
        counts = work.map(self.simulated(work, why), ids=why.keys(), on="claims")
        return {
            "backend": "simulated",
            "candidates": candidates,
            "unknown_to_reviewer": candidates - reviewable,
            "unasked": unasked,
            "failed": counts.get("failed", 0),
            "seconds_per_action": dict(SECONDS_PER_ACTION),
            "seconds_source": SECONDS_SOURCE,
            **count_effort(work, set(why)),
        }
