"""Ask people through Label Studio as a step of a run: push, pull, and wait until enough have answered."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from tilth.annotate.review.asking import Asking
from tilth.annotate.review.effort import READ_ROWS, SECONDS_PER_ACTION, count_effort
from tilth.annotate.review.ledger import Ledger
from tilth.annotate.review.pull import pull
from tilth.annotate.review.push import push
from tilth.claims import Json
from tilth.engine.job import batched
from tilth.engine.steps import Facts
from tilth.engine.work import Work
from tilth.errors import Unavailable
from tilth.samples import IMAGE, TEXT

# of the columns and the notes of a review that is the dataset's and no step's
NAMES = {IMAGE: ("review", "review.json"), TEXT: ("review.text", "review-text.json")}


def ask_people(review: Asking, work: Work) -> Facts:
    """Push the queue, which is chosen once, and pull the answers; without waiting, pull first and push what comes next.

    Raises:
        InputError: The key or the folder of the server is not given.
        Unavailable: Answers are missing; the same command goes on.
    """
    if not review.wait:
        return _go_on(review, work)
    ledger = Ledger.load(work.folder / "review.json")
    if not ledger.title:  # another queue of the same recipe is another project
        ledger.title = f"tilth {work.name[:30]} {hashlib.sha256(str(work.folder.resolve()).encode()).hexdigest()[:8]}"
    pushed = push(review, work, ledger, top_up=False)
    pulled = pull(review, work, ledger) if ledger.queue else {}
    asked = len(ledger.queue) - len(ledger.deleted)
    answered = len({ledger.tasks[task] for task in ledger.worked})
    if answered < review.done_share * asked:
        raise Unavailable(
            f"{work.name}: {answered} of {asked} {review.media[0]}s are answered at {pushed['project']}; label on, then run the same "
            "command"
        )
    return {
        "backend": "labelstudio",
        **pushed,
        **pulled,
        "answered": answered,
        **people_facts(work, ledger.queue),
    }


def _go_on(review: Asking, work: Work) -> Facts:
    """Pull what people said since the last time, whoever asked them, and push the next; nobody is waited for.

    Under one name, whatever the step is called: it is one review of one dataset, also that of `tilth review pull`.
    """
    name, notes = NAMES[review.media[0]]
    one, ledger = replace(work, name=name), Ledger.load(work.dataset.root / notes)
    pulled = pull(review, one, ledger) if ledger.queue else {}
    facts = people_facts(one, ledger.pulled)
    ledger.pulled = []
    pushed = push(review, one, ledger)
    return {"backend": "labelstudio", **pushed, **pulled, **facts}


def people_facts(work: Work, queue: Iterable[str]) -> Mapping[str, Json]:
    """Add up what people did with these samples, for the effort ledger of the report."""
    notes: Counter[str] = Counter()
    ids = set(queue)
    for sample in (s for some in batched(sorted(ids), READ_ROWS) for s in work.dataset.read(some, images=False)):
        for column in ("notes", "odd"):
            texts = sample.columns.get(f"{work.name}.{column}")
            notes.update(map(str, texts if isinstance(texts, list) else ()))
    return {
        "notes": dict(notes),
        "seconds_per_action": dict(SECONDS_PER_ACTION),
        "seconds_source": "measured by Label Studio",
        **count_effort(work, ids),
    }
