"""The step `review`: people look at the images that matter most, and every action of theirs is counted."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from tilth.annotate.effort import SECONDS_PER_ACTION, SECONDS_SOURCE, seconds, tally
from tilth.annotate.queue import choose
from tilth.annotate.reviewer import Reviewed, label_by_truth, label_made, read_made_truth, read_truth
from tilth.claims import Json
from tilth.engine import batched
from tilth.errors import InputError
from tilth.samples import Result, Sample
from tilth.steps import Facts, inputs_digest, step
from tilth.work import Work

READ_ROWS = 500


@step
class Simulate:
    """Review images by the truth."""

    name: str
    why: dict[str, str]
    truth: Path
    truth_digest: str
    made_truth: str
    categories: tuple[str, ...]
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
        shown = sample.truth.labels
        round_ = next_round(sample)
        if sample.id in truth:
            boxes = [(category, box) for category, box in truth[sample.id] if category in self.categories]
            return label_by_truth(
                sample.id,
                boxes,
                shown,
                categories=self.categories,
                error_rate=self.error_rate,
                seed=self.seed,
                round_=round_,
            )
        if sample.id in made:
            return label_made(
                sample.id, made[sample.id], shown, error_rate=self.error_rate, seed=self.seed, round_=round_
            )
        raise InputError("the simulated reviewer does not know this image")

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
class Review:
    """Have people correct the labels of chosen images.

    The queue takes doubtful scores, contradictions between what an image was mined for and what was found in it, every
    category alike, one image of a group of copies, and a random part as an audit.

    Args:
        backend: `simulated` asks a reviewer who knows the truth; `labelstudio` asks people. A run can choose otherwise.
        budget: Largest number of images; used when `share` is 0.
        share: Part of the candidates to review.
        audit_share: Part of the queue that is random.
        threshold: The score at which a label is most doubtful.
        error_rate: How often the simulated reviewer errs.
        truth: What the simulated reviewer knows: `{"id", "labels"}` lines.
        made_truth: The same for generated images, `{"id", "category"}` lines; the artifact `made_truth` when empty.
        only: `made` for generated images only, `found` for the others, `all`.
        url: Of Label Studio; the one of `tilth review up` when empty. The key of another comes from the environment variable
            LABEL_STUDIO_API_KEY.
        images: How people see them: `folder`, which the server serves; `upload` to it; `origin`, the address they came from.
        files: The folder, unless `tilth review up` started the server.
        people: How many look at each image. What they disagree on goes to one more.
        done_share: Part of the queue that must be labelled before the run goes on.
    """

    backend: Literal["simulated", "labelstudio"] = "simulated"
    budget: int = 200
    share: float = 0.0
    audit_share: float = 0.1
    threshold: float = 0.3
    error_rate: float = 0.02
    truth: Path | None = None
    made_truth: Path | None = None
    only: Literal["all", "made", "found"] = "all"
    url: str = ""
    images: Literal["folder", "upload", "origin"] = "folder"
    files: Path | None = None
    people: int = 1
    done_share: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("share", "audit_share", "threshold", "error_rate", "done_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if self.budget < 0:
            raise ValueError(f"budget must not be negative, got {self.budget}")
        if self.people < 1:
            raise ValueError(f"people must be at least 1, got {self.people}")

    def inputs(self) -> tuple[Path, ...]:
        """The truth files."""
        return tuple(path for path in (self.truth, self.made_truth) if path)

    def run(self, work: Work) -> Facts:
        """Choose, ask, count.

        Raises:
            InputError: The simulated review has no truth, or the backend is unknown.
            Unavailable: People have not finished yet, or Label Studio is down; the same command goes on.
        """
        backend = work.options.get("review") or self.backend
        if backend == "labelstudio":
            from tilth.annotate.review_people import ask_people

            return ask_people(self, work)
        if backend != "simulated":
            raise InputError(f"review backend must be simulated or labelstudio, got {backend!r}")
        if self.truth is None:
            raise InputError("a simulated review needs the setting truth: a file that says what each image shows")
        made = self.made_truth or work.artifacts.get("made_truth")
        known = set(read_truth(self.truth)) | (set(read_made_truth(made)) if made else set())
        candidates = Counter(sample.id in known for sample in work.dataset.samples(self.wanted, images=False))
        why = self.queue(work, lambda sample: sample.id in known)
        mapper = Simulate(
            name=work.name,
            why=why,
            truth=self.truth,
            truth_digest=inputs_digest([p for p in (self.truth, made) if p]),
            made_truth=str(made or ""),
            categories=tuple(c.name for c in work.policy.pictured),
            error_rate=self.error_rate,
            seed=work.seed,
        )
        counts = work.map(mapper, lambda sample: sample.id in why, on="claims")
        return {
            "backend": "simulated",
            "candidates": sum(candidates.values()),
            "unknown_to_reviewer": candidates[False],
            "failed": counts.get("failed", 0),
            "seconds_per_action": dict(SECONDS_PER_ACTION),
            "seconds_source": SECONDS_SOURCE,
            **count_effort(work, set(why)),
        }

    def wanted(self, sample: Sample) -> bool:
        """Tell whether an image may be reviewed: not of the test split, and no person has labelled it yet."""
        if sample.split == "test" or (self.only != "all" and sample.made != (self.only == "made")):
            return False
        return not sample.labelled_by_people

    def queue(
        self, work: Work, known: Callable[[Sample], bool] = lambda sample: True, *, less: int = 0
    ) -> dict[str, str]:
        """Choose the images and say why each; `less` of the budget wait already."""
        where = lambda sample: self.wanted(sample) and known(sample)  # noqa: E731
        budget = math.ceil(self.share * work.dataset.count(where)) if self.share else self.budget
        samples = work.dataset.samples(where, images=False)
        return choose(
            samples, max(0, budget - less), audit_share=self.audit_share, threshold=self.threshold, seed=work.seed
        )


def count_effort(work: Work, ids: set[str]) -> dict[str, Json]:
    """Add up what a review cost, and how good the labels were before it.

    Args:
        work: The step's surroundings; its columns hold the actions of each image.
        ids: The images of the queue.
    """
    actions: list[str] = []
    spent = 0.0
    reasons: Counter[str] = Counter()
    before: dict[str, Counter[str]] = {"all": Counter(), "audit": Counter()}
    states: Counter[str] = Counter()
    for sample in (s for some in batched(sorted(ids), READ_ROWS) for s in work.dataset.read(some, images=False)):
        if sample.drops or f"{work.name}.actions" not in sample.columns:
            continue
        actions += cast("list[str]", sample.columns[f"{work.name}.actions"])
        spent += float(cast("float", sample.columns.get(f"{work.name}.seconds") or 0))
        why = str(sample.columns.get(f"{work.name}.why"))
        reasons[why] += 1
        states[str(sample.state)] += 1
        numbers = cast("dict[str, int]", sample.columns.get(f"{work.name}.before") or {})
        for part in ("all", "audit") if why == "audit" else ("all",):
            before[part].update({**numbers, "images": 1})
    return {
        "human_actions": len(actions),
        "actions": tally(actions),
        "estimated_seconds": round(spent, 1),
        "hours": round(spent / 3600, 4),
        "seconds_if_published": seconds(actions),
        "images_reviewed": sum(states.values()),
        "states": dict(states),
        "queued_for": dict(reasons),
        "labels_before_review": {part: _quality(counts) for part, counts in before.items()},
    }


def _quality(counts: Counter[str]) -> dict[str, Json]:
    """Return precision and recall of the boxes that were shown."""
    right, shown, present = counts["right"], counts["shown"], counts["present"]
    return {
        "images": counts["images"],
        "right": right,
        "shown": shown,
        "present": present,
        "precision": round(right / shown, 4) if shown else None,
        "recall": round(right / present, 4) if present else None,
    }
