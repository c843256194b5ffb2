"""Ask people through Label Studio as a step of a run: push, pull, and wait until enough have answered."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tilth.annotate.effort import SECONDS_PER_ACTION
from tilth.annotate.review import READ_ROWS, count_effort
from tilth.annotate.review_ledger import Ledger
from tilth.annotate.review_pull import pull
from tilth.annotate.review_push import push
from tilth.claims import Json
from tilth.engine import batched
from tilth.errors import Unavailable
from tilth.steps import Facts
from tilth.work import Work

if TYPE_CHECKING:
    from tilth.annotate.review import Review


def ask_people(review: "Review", work: Work) -> Facts:
    """Push the queue, which is chosen once, and pull the answers.

    Raises:
        InputError: The key or the folder of the server is not given.
        Unavailable: Answers are missing; the same command goes on.
    """
    ledger = Ledger.load(work.folder / "review.json")
    if not ledger.title:  # another queue of the same recipe is another project
        ledger.title = f"tilth {work.name[:30]} {hashlib.sha256(str(work.folder.resolve()).encode()).hexdigest()[:8]}"
    pushed = push(review, work, ledger, top_up=False)
    pulled = pull(review, work, ledger) if ledger.queue else {}
    asked = len(ledger.queue) - len(ledger.deleted)
    answered = len({ledger.tasks[task] for task in ledger.worked})
    if answered < review.done_share * asked:
        raise Unavailable(
            f"{work.name}: {answered} of {asked} images are answered at {pushed['project']}; label on, then run the same command"
        )
    return {
        "backend": "labelstudio",
        **pushed,
        **pulled,
        "answered": answered,
        **people_facts(work, ledger),
    }


def people_facts(work: Work, ledger: Ledger) -> Mapping[str, Json]:
    """Add up what people did, for the effort ledger of the report."""
    notes: Counter[str] = Counter()
    ids = set(ledger.queue)
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
