"""Ask people through Label Studio, and go on when they have answered."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilth.annotate.effort import SECONDS_PER_ACTION
from tilth.annotate.labelstudio import Studio
from tilth.annotate.labelstudio_answers import read_answers
from tilth.annotate.labelstudio_tasks import Row
from tilth.annotate.review import count_effort, next_round
from tilth.claims import Json
from tilth.dataset import write_beside
from tilth.errors import InputError, Unavailable
from tilth.samples import Result, Sample
from tilth.steps import Facts, step
from tilth.work import Work

if TYPE_CHECKING:
    from tilth.annotate.review import Review

KEY = "LABEL_STUDIO_API_KEY"


@step
class Pulled:
    """Turn the answers in a file into claims."""

    name: str
    path: Path
    digest: str
    categories: tuple[str, ...]
    batch_size: int = 64

    def models(self) -> tuple[str, ...]:
        """None."""
        return ()

    def load(self) -> Callable[[Sequence[Sample]], list[Result]]:
        """Read the file."""
        saved: dict[str, Row] = json.loads(self.path.read_text(encoding="utf-8"))
        return lambda samples: [self._result(sample, saved[sample.id]) for sample in samples]

    def _result(self, sample: Sample, task: Row) -> Result:
        answers = read_answers(task, self.categories, next_round(sample))
        columns: dict[str, Json] = {
            f"{self.name}.actions": [action for answer in answers for action in answer.actions],
            f"{self.name}.seconds": sum(answer.seconds for answer in answers),
            f"{self.name}.why": str(task["data"].get("why") or ""),
            f"{self.name}.notes": [answer.note for answer in answers if answer.note],
            f"{self.name}.odd": [odd for answer in answers for odd in answer.odd],
        }
        return Result(claims=tuple(claim for answer in answers for claim in answer.claims), columns=columns)


def _queue(review: "Review", work: Work) -> dict[str, str]:
    """Return the queue, which stays as it is until it is answered."""
    path = work.folder / "queue.json"
    if not path.exists():
        work.folder.mkdir(parents=True, exist_ok=True)
        write_beside(path, json.dumps(review.queue(work)))
    return dict(json.loads(path.read_text(encoding="utf-8")))


def ask_people(review: "Review", work: Work) -> Facts:
    """Push the queue, pull the answers, and make claims of them once enough are there.

    Raises:
        InputError: The key or the folder of the server is not given.
        Unavailable: Answers are missing; the same command goes on.
    """
    key = os.environ.get(KEY, "")
    if not key:
        raise InputError(f"review with Label Studio needs its access token in the environment variable {KEY}")
    if review.files is None:
        raise InputError("review with Label Studio needs the setting files: the folder it serves local files from")
    why = _queue(review, work)
    name = hashlib.sha256("".join(sorted(why)).encode()).hexdigest()[:8]
    with Studio(review.url, key, review.files, f"tilth {work.name} {name}", work.policy) as studio:
        sent = studio.push(work.dataset.samples(lambda s: s.id in why), lambda id_: why[id_])
        answered = {
            str(task["data"]["sample"]): _slim(task)
            for task in studio.tasks(whole=True)
            if task["data"].get("sample") in why and task.get("annotations")
        }
        place = f"{studio.url}/projects/{studio.project}"
    work.events.emit("review", project=place, sent=sent, answered=len(answered), queue=len(why))
    if len(answered) < review.done_share * len(why):
        raise Unavailable(
            f"{work.name}: {len(answered)} of {len(why)} images are answered at {place}; label on, then run the same command"
        )
    path = work.folder / "answers.json"
    text = json.dumps(answered, sort_keys=True)
    write_beside(path, text)
    mapper = Pulled(
        name=work.name, path=path, digest=hashlib.sha256(text.encode()).hexdigest()[:12], categories=studio.categories
    )
    work.map(mapper, lambda sample: sample.id in answered, on="claims")
    notes: Counter[str] = Counter()
    for sample in work.dataset.samples(lambda s: s.id in answered, images=False):
        for column in ("notes", "odd"):
            notes.update(map(str, _texts(sample.columns.get(f"{work.name}.{column}"))))
    return {
        "backend": "labelstudio",
        "project": place,
        "sent": sent,
        "answered": len(answered),
        "queue": len(why),
        "notes": dict(notes),
        "seconds_per_action": dict(SECONDS_PER_ACTION),
        "seconds_source": "measured by Label Studio",
        **count_effort(work, set(answered)),
    }


def _texts(value: Json) -> Sequence[Any]:
    return value if isinstance(value, list) else []


def _slim(task: Row) -> Row:
    """Keep what answers are read from."""
    parts = (
        "id",
        "completed_by",
        "was_cancelled",
        "result",
        "lead_time",
        "updated_at",
        "parent_prediction",
        "model_version",
    )
    return {
        "data": task["data"],
        **{
            kind: [{k: row[k] for k in parts if k in row} for row in task.get(kind) or []]
            for kind in ("annotations", "predictions")
        },
    }
