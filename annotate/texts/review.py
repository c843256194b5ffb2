"""The step `review.text`: people read the texts that matter most, in Label Studio or as a reviewer who knows the truth."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from tilth.annotate.review.queue import Entry
from tilth.annotate.review.review import Review, next_round
from tilth.annotate.review.reviewer import SOURCE, Reviewed
from tilth.annotate.texts.queue import DECIDING_S, reading_s, weigh
from tilth.annotate.texts.rows import Rows
from tilth.annotate.texts.sets import TextSet
from tilth.annotate.texts.taking import TextTaker
from tilth.claims import Claim, Json
from tilth.engine.intake import Failed
from tilth.engine.steps import Facts, Mapper, inputs_digest, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.policy import Category, Policy
from tilth.samples import TEXT, Result, Sample

Said = tuple[tuple[str, tuple[float, float] | None], ...]  # category and place of everything that a text shows
# As published for boxes: yes or no to what is shown, one answer of five, and four clicks, which to mark words from their beginning to their
# end takes no longer. What there is to read is counted by itself.
SOURCE_OF_SECONDS = (
    "published averages (Papadopoulos 2016 and 2017), and reading at 238 words a minute (Brysbaert 2019)"
)
SECONDS = {"accept": 1.6, "reject": 1.6, "confirm_empty": 1.6, "relabel": DECIDING_S, "draw": 7.0}


def read_truth(path: Path, policy: Policy, wanted: Collection[str] | None = None) -> dict[str, Said]:
    """Read a table of texts with all that they show, as `import.text` reads it; by the id of the text.

    Args:
        path: A table, or a folder of them.
        policy: Whose categories count.
        wanted: Only these ids; all when None.

    Raises:
        InputError: A row cannot be read, or says of its text what the policy does not know.
    """
    names = tuple(category.name for category in policy.written)
    taker = TextTaker(
        how=TextSet(text=()),
        policy=policy,
        categories={},
        covers=names,
        empty_means="confirmed_empty",
        called="truth",
        key="truth",
        origin={},
        split="",
    )
    found: dict[str, Said] = {}
    for row in Rows(path.expanduser()):
        new = taker.take(row)
        if isinstance(new, Failed):
            raise InputError(f"{path}: {new.name}: {new.error}; the truth must say of each text all that it shows")
        if not new.claims:
            raise InputError(
                f"{path}: row {row.number} of {row.file} does not say what its text shows; it needs a label, such as safe or "
                f"{', '.join(names)}"
            )
        id_ = new.identify()[0]
        if wanted is None or id_ in wanted:
            labels = (claim for claim in new.claims if claim.says == "label")
            found[id_] = tuple((str(claim.category), claim.span) for claim in labels)
    return found


def label_text(
    sample: Sample,
    truth: Said,
    *,
    categories: Sequence[str],
    error_rate: float = 0.02,
    seed: int = 0,
    policy: str = "",
) -> Reviewed:
    """Label a text as a person would who reads it and knows the truth, given the labels that are shown to begin with.

    With the chance of an error a person misses what is there, or takes it for another category, and keeps a label that is wrong; in a text
    that shows nothing they see something. Errors depend on the seed, the text and its truth alone.

    Args:
        sample: The text, with the labels that models gave it.
        truth: All that it shows.
        categories: What the person looks for.
        error_rate: Chance of a mistake for each thing.
        seed: Of the errors.
        policy: Whose categories these are.
    """
    number = hashlib.sha256(f"text\n{seed}\n{sample.id}".encode()).digest()[:8]
    rng = np.random.default_rng(int.from_bytes(number, "big"))
    present = [(name, span) for name, span in truth if name in categories]
    true = {name for name, _ in present}
    seen: dict[str, tuple[float, float] | None] = {}
    for name, span in present or [("", None)]:
        errs, other = rng.random() < error_rate, str(rng.choice([*categories, ""]))
        told = other if errs and other != name else "" if errs else name
        if told:
            seen[told] = span
    shown = {str(label.category) for label in sample.truth.labels if label.category in categories}
    for name in sorted(shown - true):
        if rng.random() < error_rate:
            seen.setdefault(name, None)
    actions = [
        *["accept"] * len(shown & seen.keys()),
        *["reject"] * len(shown - seen.keys()),
        *["relabel" if span is None else "draw" for name, span in seen.items() if name not in shown],
        *["confirm_empty"] * (not seen),
    ]
    spent = round(reading_s(sample) + sum(SECONDS[action] for action in actions), 3)
    whole: dict[str, Json] = {"round": next_round(sample), "actions": list(actions), "seconds": spent}
    say = partial(Claim, source=SOURCE, asked=tuple(categories), policy=policy, evidence=whole)
    claims = [say(category=name, span=span) for name, span in seen.items()] or [say(says="empty")]
    return Reviewed(
        claims=tuple(claims), actions=tuple(actions), right=len(shown & true), shown=len(shown), present=len(true)
    )


@step
class SimulateText:
    """Review texts by the truth."""

    media: ClassVar[tuple[str, ...]] = (TEXT,)

    name: str
    why: dict[str, str]
    truth: Path
    truth_digest: str
    policy: Policy
    error_rate: float
    seed: int
    batch_size: int = 256

    def models(self) -> tuple[str, ...]:
        """None."""
        return ()

    def load(self) -> Callable[[Sequence[Sample]], list[Result]]:
        """Read the truth of the texts in the queue."""
        truth = read_truth(self.truth, self.policy, self.why)
        names = tuple(category.name for category in self.policy.written)

        def review(samples: Sequence[Sample]) -> list[Result]:
            return [self._result(sample, truth[sample.id], names) for sample in samples]

        return review

    def _result(self, sample: Sample, truth: Said, names: tuple[str, ...]) -> Result:
        # what people have said of other categories is settled
        asked = sample.to_ask(names) or names
        done = label_text(
            sample, truth, categories=asked, error_rate=self.error_rate, seed=self.seed, policy=self.policy.tag
        )
        columns: dict[str, Json] = {
            f"{self.name}.actions": list(done.actions),
            f"{self.name}.seconds": float(str(done.claims[0].evidence["seconds"])),
            f"{self.name}.why": self.why[sample.id],
            f"{self.name}.before": {"right": done.right, "shown": done.shown, "present": done.present},
        }
        return Result(claims=done.claims, columns=columns)


@step
class ReviewText(Review):
    """Have people label chosen texts: by category, as a whole or where in it.

    First come texts with the most wrong labels to be expected for each second of reading, by what `judge` said, what two judges disagree
    on, and how unsure they were; every category alike, one of a group of copies, and a random part as an audit. In Label Studio a text
    is hidden until it is opened.

    Args:
        backend: `simulated` asks a reviewer who knows the truth; `labelstudio` asks people. A run can choose otherwise.
        budget: Largest number of texts; used when `share` is 0.
        share: Part of the candidates to review.
        audit_share: Part of the queue that is random.
        good_enough: As of `review`.
        error_rate: How often the simulated reviewer errs.
        truth: What the simulated reviewer knows: a table of texts with all their labels, as `import.text` reads it.
        made_truth: Of images alone.
        only: As of `review`.
        url: Of Label Studio, as of `review`.
        images: Of images alone.
        files: Of images alone.
        people: How many read each text. What they disagree on goes to one more.
        done_share: Part of the queue that must be labelled before the run goes on.
        wait: For people, as of `review`.
    """

    media: ClassVar[tuple[str, ...]] = (TEXT,)

    @staticmethod
    def asked(policy: Policy) -> tuple[Category, ...]:
        """Return the categories that words decide."""
        return tuple(policy.written)

    @staticmethod
    def weigh(sample: Sample, seed: int, worth: Mapping[str, float]) -> Entry:
        """Say how urgent a text is, and why."""
        return weigh(sample, seed, worth)

    def run(self, work: Work) -> Facts:
        """Choose, ask, count.

        Raises:
            InputError: The simulated review has no truth, or the backend is unknown.
            Unavailable: People have not finished yet, or Label Studio is down; the same command goes on.
        """
        facts = dict(Review.run(self, work))
        facts.pop("seconds_if_published", None)  # of boxes
        if facts["backend"] == "simulated" and "enough" not in facts:
            facts |= {"seconds_per_action": dict(SECONDS), "seconds_source": SOURCE_OF_SECONDS}
        return facts

    def known(self, work: Work) -> set[str]:
        """Return the texts that the simulated reviewer knows."""
        return set(read_truth(self._truth(), work.policy))

    def simulated(self, work: Work, why: dict[str, str]) -> Mapper:
        """Return the simulated reviewer of these texts."""
        truth = self._truth()
        return SimulateText(
            name=work.name,
            why=why,
            truth=truth,
            truth_digest=inputs_digest([truth]),
            policy=work.policy,
            error_rate=self.error_rate,
            seed=work.seed,
        )
