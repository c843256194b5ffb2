"""Whom to ask about which images, and how: the settings of a review, and what may wait in its queue."""

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import ClassVar, Literal, cast

from tilth.annotate.review.queue import Entry, choose, entry, worth_of
from tilth.data.where import both, to_ask
from tilth.engine.steps import step
from tilth.engine.work import Work
from tilth.policy import Category, Policy
from tilth.samples import IMAGE, Sample


@step
class Asking:
    """Have people correct the labels of chosen images.

    The queue takes doubtful scores, contradictions between what an image was mined for and what was found in it, every
    category alike, one image of a group of copies, and a random part as an audit.

    Args:
        backend: `simulated` asks a reviewer who knows the truth; `labelstudio` asks people. A run can choose otherwise.
        budget: Largest number of images; used when `share` is 0.
        share: Part of the candidates to review.
        audit_share: Part of the queue that is random.
        good_enough: Share of right labels that ends the asking: nobody is asked any more when the audits of the run so far say, at the
            lower ends of their 95 % intervals, that so many of the labels are right and so many of the things are labelled. 0 never ends.
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
        wait: For people. Else the run takes in what they said since the last time, puts more before them until `budget` wait, and goes on:
            for a dataset that outlives runs, beside which `tilth review push` and `pull` do the same.
    """

    media: ClassVar[tuple[str, ...]] = (IMAGE,)

    backend: Literal["simulated", "labelstudio"] = "simulated"
    budget: int = 200
    share: float = 0.0
    audit_share: float = 0.1
    good_enough: float = 0.0
    error_rate: float = 0.02
    truth: Path | None = None
    made_truth: Path | None = None
    only: Literal["all", "made", "found"] = "all"
    url: str = ""
    images: Literal["folder", "upload", "origin"] = "folder"
    files: Path | None = None
    people: int = 1
    done_share: float = 1.0
    wait: bool = True

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("share", "audit_share", "good_enough", "error_rate", "done_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if self.budget < 0:
            raise ValueError(f"budget must not be negative, got {self.budget}")
        if self.people < 1:
            raise ValueError(f"people must be at least 1, got {self.people}")

    @staticmethod
    def asked(policy: Policy) -> tuple[Category, ...]:
        """Return what people are asked for: words are judged by reading them, so no image waits for people because of theirs."""
        return tuple(policy.pictured)

    @staticmethod
    def weigh(sample: Sample, seed: int, worth: Mapping[str, float]) -> Entry:
        """Say how urgent a sample is, and why."""
        return entry(sample, seed, worth)

    def wanted(self, work: Work) -> str:
        """Return the condition on samples that may be reviewed: people have not been asked yet for all categories."""
        only = {"all": "", "made": "made", "found": "not made"}[self.only]
        return both("split != 'test'", to_ask(category.name for category in self.asked(work.policy)), only)

    def queue(
        self, work: Work, known: Collection[str] | None = None, *, beside: Collection[str] = (), less: int = 0
    ) -> dict[str, str]:
        """Choose the images, of those that are `known` and not `beside`, and say why each; `less` of the budget wait already."""
        where = self.wanted(work)
        samples = work.dataset.samples(where, ids=known, images=False, keep=lambda sample: sample.id not in beside)
        candidates = work.dataset.count(where, ids=known) - work.dataset.count(where, ids=beside) if self.share else 0
        budget = math.ceil(self.share * candidates) if self.share else self.budget
        shown = dict.fromkeys((category.name for category in self.asked(work.policy)), 0)
        for (names,) in work.dataset.cells("categories", where="split != 'test'"):
            for name in cast("list[str]", names or []):
                if name in shown:
                    shown[name] += 1
        return choose(
            samples,
            max(0, budget - less),
            audit_share=self.audit_share,
            seed=work.seed,
            worth=worth_of(shown),
            weigh=self.weigh,
        )
