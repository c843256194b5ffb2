"""What would go wrong later in a run, found before any time is spent: on models, people, test sets and bundles."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from tilth import models
from tilth.annotate.exchange.importing import Import
from tilth.annotate.grounding.ground import Ground
from tilth.annotate.grounding.phrases import questions, spelled, unknown
from tilth.annotate.review.push import own_server
from tilth.annotate.review.review import Review
from tilth.data.dataset import Dataset
from tilth.engine.work import Step
from tilth.errors import InputError, ModelError, TilthError, Unavailable
from tilth.mining.search.mine import Mine
from tilth.pipeline.needs import too_large
from tilth.pipeline.steps.label_made import LabelMade
from tilth.pipeline.steps.language import check_language_model
from tilth.pipeline.steps.package import Package
from tilth.policy import Policy
from tilth.synth.adapters.choosing import check
from tilth.synth.adapters.training import TrainLora
from tilth.synth.draw.generate import Generate
from tilth.synth.identity.ended import CHILDREN
from tilth.synth.identity.swap import FaceSwap
from tilth.train.judge.evaluate import Evaluate
from tilth.train.judge.gate import Gate
from tilth.train.judge.testsets import cannot_measure, coco_counts
from tilth.train.learn.enough import Counts, in_dataset, too_few
from tilth.train.learn.fine_tune import STATES, FineTune

LABELLING = (Mine, Generate, LabelMade, Ground, Review)  # who can tell what images and labels these will bring?
MOST = 20_000  # images of a set whose labels are looked at


@dataclass(frozen=True, kw_only=True)
class Foresight:
    """What was found: mistakes, what is not there now but may be later, and what is merely worth knowing."""

    wrong: list[str] = field(default_factory=list)
    away: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def refuse(self) -> None:
        """Stop for what would stop a run later.

        Raises:
            InputError: Something is wrong.
            Unavailable: Nothing is wrong, but something is not there now.
        """
        told = "\n".join([*self.wrong, *self.away])
        if told:
            raise InputError(told) if self.wrong else Unavailable(told)


def foresee(steps: Mapping[str, Step], policy: Policy, review: str = "", dataset: Dataset | None = None) -> Foresight:
    """Look ahead over steps; nothing is downloaded, loaded or asked of a person.

    Args:
        steps: Those that are to be run, by name.
        policy: Their policy.
        review: Who reviews, instead of what the steps say.
        dataset: On which they are to be run, as it is now; None when there is none yet.
    """
    found = Foresight()
    for name in dict.fromkeys(name for step in steps.values() for name in step.models()):
        try:
            models.check(name)
        except Unavailable as error:
            found.away.append(str(error))
        except ModelError as error:
            found.wrong.append(str(error))
    for name, step in steps.items():
        found.notes.extend(too_large(name, step))
        if isinstance(step, Ground):
            found.notes.extend(f"{name}: {note}" for note in _words(step, policy))
        elif isinstance(step, Generate):
            _generated(found, name, step, policy)
        elif isinstance(step, TrainLora):
            _taught(found, name, step, policy)
        elif isinstance(step, FaceSwap):
            _swapped(found, name, step, policy, dataset)
        elif isinstance(step, Review) and (review or step.backend) == "labelstudio":
            found.away.extend(f"{name}: {reason}" for reason in _nobody_asks(step))
        elif isinstance(step, FineTune):
            before = list(steps.values())[: list(steps).index(name)]
            found.notes.extend(f"{name}: {note}" for note in _little(step, before, policy, dataset))
        elif isinstance(step, Evaluate):
            notes = [*(_test_set(step, policy) if step.test else ()), *_two_sets(step.against, name, steps)]
            found.notes.extend(f"{name}: {note}" for note in notes)
        elif isinstance(step, Gate):
            found.notes.extend(f"{name}: {note}" for note in _two_sets(step.old, step.new, steps))
        elif isinstance(step, Package):
            try:
                check_language_model(step.language_model, policy, step.asking)
            except TilthError as error:
                found.wrong.append(f"{name}: {error}")
    return found


def _generated(found: Foresight, name: str, step: Generate, policy: Policy) -> None:
    """Name the categories of which no image is ever generated; to leave none, or to name a model that is refused, is a mistake."""
    try:
        here = all(map(models.is_here, step.models()))
    except TilthError:  # told already
        here = False
    try:
        never = step.left_out(policy)
        step.files.writer()
        if here:
            step.parts.refuse(step.model)
    except TilthError as error:
        found.wrong.append(f"{name}: {error}")
    else:
        found.notes.extend(f"{name}: {each} is left out: {why} is never generated" for each, why in never.items())


def _taught(found: Foresight, name: str, step: TrainLora, policy: Policy) -> None:
    """To teach a model what is never generated is a mistake."""
    try:
        check(policy, step.images, name)
    except TilthError as error:
        found.wrong.append(str(error))


def _swapped(found: Foresight, name: str, step: FaceSwap, policy: Policy, dataset: Dataset | None) -> None:
    """Refuse what no consent allows; where images were made with one that is over, the step drops them before it refuses."""
    today = date.today()
    try:
        over = step.ended(today)
        if dataset and over and dataset.count(CHILDREN):
            found.notes.extend(
                f"{name}: the consent {each} {why}: what was made with it is dropped" for each, why in over.items()
            )
            return
        never = step.check(policy, today)
        step.files.writer()
    except TilthError as error:
        found.wrong.append(f"{name}: {error}")
    else:
        found.notes.extend(f"{name}: {each} is left out: {why}" for each, why in never.items())


def _little(step: FineTune, before: Sequence[Step], policy: Policy, dataset: Dataset | None) -> Iterator[str]:
    """Name the categories of which little will be learned, by the dataset, or by the sets that it will be made of."""
    labels = [category.name for category in policy.pictured]
    if counts := in_dataset(dataset, labels, [STATES[name] for name in step.states]) if dataset else {}:
        source = "in the dataset as it is now"
    elif not any(isinstance(each, LABELLING) for each in before):
        source, counts = "by the labels that are imported", _imported(before, policy)
    for label, why in too_few({n: counts[n] for n in labels if n in counts}, negatives=not step.boxes_only).items():
        yield f"{source}, {label}: {why}"


def _imported(steps: Sequence[Step], policy: Policy) -> Counts:
    counts: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for step in steps:
        if isinstance(step, Import) and step.split not in ("test", "val"):
            try:
                told = step.shown(policy, MOST)
            except (InputError, OSError):  # the import says why
                continue
            for label, (shown, looked) in told.items():
                counts[label] = counts[label][0] + shown, counts[label][1] + looked
    return counts


def _words(step: Ground, policy: Policy) -> Iterator[str]:
    """Name the words that a grounding model knows by their letters alone, where its vocabulary lies here as one file."""
    from tokenizers import Tokenizer

    try:
        path = models.find(step.model) / "tokenizer.json" if models.is_here(step.model) else None
    except TilthError:  # told already
        return
    if path is None or not path.exists():
        return
    tokenizer = Tokenizer.from_file(str(path))

    def tokens(text: str) -> list[str]:
        return list(tokenizer.encode(text, add_special_tokens=False).tokens)

    asked = questions(policy.pictured)
    if words := spelled([phrase for question in asked for phrase in question.phrases], tokens):
        more = f" and {len(words) - 10} more" if len(words) > 10 else ""
        left = ", ".join(unknown(asked, words))
        yield (
            f"{step.model} was not taught these words of the policy and will hardly find them: {', '.join(words[:10])}{more}; "
            + (f"it is not asked for {left}, of which it knows no prompt; " if left else "")
            + "use its words as prompts, or another model"
        )


def _nobody_asks(step: Review) -> Iterator[str]:
    """Say that no Label Studio is known, or that the one that is does not answer."""
    import httpx

    own = own_server(step.url)
    url = step.url or (own.url if own else "")
    if not url:
        yield "no Label Studio runs here; start one with: tilth review up, or name one with the setting url"
        return
    try:
        httpx.get(f"{url.rstrip('/')}/health", timeout=5, trust_env=not own)
    except httpx.HTTPError as error:
        yield f"Label Studio at {url} does not answer ({type(error).__name__}); start it, or name another"


def _test_set(step: Evaluate, policy: Policy) -> Iterator[str]:
    assert step.test is not None
    path = step.test / "annotations.json"
    try:
        counts = coco_counts(step.test, policy)
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield f"{path}: not a COCO file that can be read ({type(error).__name__}: {error})"
        return
    if why := cannot_measure(*counts):
        yield f"{step.test}: {why}"


def _two_sets(before: str, after: str, steps: Mapping[str, Any]) -> Iterator[str]:
    judged = [
        (s.test, s.split if s.test is None else "") for n in (before, after) if isinstance(s := steps.get(n), Evaluate)
    ]
    if len(judged) == 2 and judged[0] != judged[1]:
        old, new = (str(test or f"split {split!r}") for test, split in judged)
        yield f"{before} judges {old} and {after} judges {new}; only images that both judge can be compared"
