"""Take in what people said since the last time, each answer once, and offer what they disagree on to one more of them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import cast

from tilth.annotate.labelstudio.client import Studio
from tilth.annotate.labelstudio.tasks import Row
from tilth.annotate.review.asking import Asking
from tilth.annotate.review.ledger import Ledger
from tilth.annotate.review.push import open_studio
from tilth.claims import Claim, Json, State, resolve
from tilth.data.table import Table, read_claim, read_columns, result_row
from tilth.engine.job import batched
from tilth.engine.steps import Facts
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.samples import Result, Sample

# The server dates a change when it begins to write it; one that took longer may appear behind what was already listed.
MARGIN_S = 30
PULL_ROWS = 500
BEFORE = ("right", "shown", "present")
PEOPLE_SAY = "-people-"  # in the names of tables of answers


def table_name(work: Work, ledger: Ledger) -> str:
    """Name the table of the answers: one a project, whose rows grow with what people say."""
    return f"{work.name}{PEOPLE_SAY}{ledger.title.rpartition(' ')[2]}-{ledger.project}"


def pull(review: Asking, work: Work, ledger: Ledger) -> Facts:
    """Make claims of the answers that are new or changed, and a version of the dataset with them.

    Claims are appended to those that a person made before; `resolve` takes the newest round of each person. A person who deletes
    their answer, or skips what they had labelled, withdraws it.

    Raises:
        InputError: Nothing was pushed, or the project is another's.
        Unavailable: The server failed; the same command goes on.
    """
    if not ledger.queue:
        raise InputError(f"nothing to pull into {work.dataset.root}: nothing was pushed; run: tilth review push")
    with open_studio(review, work, ledger, make=False) as studio:
        listed, worked = studio.changed(_before(ledger.seen_until))
        changed = [task for task, _ in listed if task in ledger.tasks]
        known = set(ledger.worked) | set(changed)
        if ledger.foreign or len(known) != worked:  # all that was said of a task was deleted, or one was missed
            changed += sorted((known ^ (studio.annotated() & ledger.tasks.keys())) - set(changed))
        new = disputed = 0
        table = work.dataset.table(table_name(work, ledger))
        with work.events.progress(f"{work.name}: pull", len(changed)) as advance:
            for tasks in batched(changed, PULL_ROWS):
                rows, said = _read(work, ledger, studio, table, tasks)
                # first the offers: a kill before they are made must leave the rows new, and an offer can be made twice
                disputed += _offer(studio, ledger, rows)
                if rows:
                    ledger.pulled = sorted({*ledger.pulled, *rows})  # noted first: after a kill they are new no more
                    ledger.save()
                    table.replace([result_row(sample, result, work.now()) for sample, result in rows.items()])
                new += len(rows)
                ledger.worked = sorted((set(ledger.worked) - set(tasks)) | said)
                advance(len(tasks))
        if len(table):
            work.dataset.attach(work.name, table, f"{work.name}: pull {new}", work.now())
        ledger.seen_until = max([ledger.seen_until, *(at for _, at in listed)])
        ledger.save()
        return {
            "project": studio.page,
            "changed": new,
            "offered_to_another": disputed,
            "answered": len(ledger.worked),
            "queue": len(ledger.queue),
            "deleted": len(ledger.deleted),
        }


def _before(time: str) -> str:
    """Return a time of the server a little earlier; empty, before all, when there is none."""
    if not time:
        return ""
    try:
        moment = datetime.fromisoformat(time)
    except ValueError as error:
        raise InputError(f"a time of Label Studio must be as in 2026-01-31T12:00:00Z, got {time!r}") from error
    return (moment.astimezone(UTC) - timedelta(seconds=MARGIN_S)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _read(
    work: Work, ledger: Ledger, studio: Studio, table: Table, tasks: Sequence[int]
) -> tuple[dict[str, Result], set[int]]:
    """Return what is new, by sample, and which of the tasks people have worked on."""
    whole: dict[str, Row] = {}
    said = set()
    for task in studio.whole(tasks):
        sample = ledger.tasks[int(task["id"])]
        said |= {int(task["id"])} if task.get("annotations") else set()
        # a sample can have two tasks that people worked on, when a cut request was carried out later
        kept = whole.setdefault(sample, {"data": task["data"], "annotations": [], "predictions": []})
        for part in ("annotations", "predictions"):
            kept[part] += task.get(part) or []
    old = table.get(list(whole), ["claims", "columns", "nested"])
    rows = {}
    for one in work.dataset.read(list(whole), images=False):
        row = old.get(one.id, {"claims": [], "columns": "", "nested": ""})
        earlier = [read_claim(claim) for claim in cast("list[Mapping[str, object]]", row["claims"])]
        columns = read_columns(row)
        result = _merge(work.name, one, whole[one.id], earlier, columns, studio, ledger.queue[one.id])
        if result is not None:
            rows[one.id] = result
    return rows, said


def _merge(
    name: str,
    sample: Sample,
    task: Row,
    earlier: list[Claim],
    columns: Mapping[str, Json],
    studio: Studio,
    why: str,
) -> Result | None:
    """Append what is new to what is known; None when nothing is."""
    rounds = [claim.evidence.get("round") for claim in (*sample.claims, *earlier) if claim.kind == "human"]
    round_ = 1 + max((number for number in rounds if isinstance(number, int)), default=0)
    answers = studio.form.answers(task, sample.size_wh, round_)
    told = cast("list[dict[str, Json]]", columns.get(f"{name}.answers") or [])
    known = {str(row["who"]): row for row in told}
    claims = list(earlier)
    for answer in answers:
        was = known.pop(answer.who, {"digest": "", "claims": 0})
        if was["digest"] != answer.digest:
            claims += answer.claims or _withdrawn(f"human:labelstudio-{answer.who}", was, round_)
    for who, was in known.items():
        claims += _withdrawn(f"human:labelstudio-{who}", was, round_)
    new: dict[str, Json] = {
        f"{name}.actions": [action for answer in answers for action in answer.actions],
        f"{name}.seconds": sum(answer.seconds for answer in answers),
        f"{name}.why": why,
        f"{name}.notes": [answer.note for answer in answers if answer.note],
        f"{name}.odd": [odd for answer in answers for odd in answer.odd],
        f"{name}.before": next((dict(zip(BEFORE, a.before, strict=True)) for a in answers if not a.note), {}),
        f"{name}.answers": [
            {
                "who": answer.who,
                "digest": answer.digest,
                "note": answer.note,
                "seconds": answer.seconds,
                "actions": list(answer.actions),
                "claims": len(answer.claims),
                "removed": [{"category": category, "box_xyxy": list(box)} for category, box in answer.removed],
            }
            for answer in answers
        ],
    }
    return None if new == columns and claims == earlier else Result(claims=tuple(claims), columns=new)


def _withdrawn(source: str, was: Mapping[str, Json], round_: int) -> tuple[Claim, ...]:
    return (Claim(says="withdraw", source=source, evidence={"round": round_}),) if was["claims"] else ()


def _offer(studio: Studio, ledger: Ledger, rows: Mapping[str, Result]) -> int:
    """Ask one more person about each sample that those who looked do not agree on, or that they passed on."""
    task_of = {sample: task for task, sample in ledger.tasks.items()}
    offered = 0
    for sample, result in rows.items():
        people = len({claim.source for claim in result.claims})
        if resolve(result.claims).state is State.DISPUTED and ledger.people.get(sample, 0) <= people:
            studio.ask_another(task_of[sample], people + 1)
            ledger.people[sample] = people + 1
            offered += 1
    return offered
