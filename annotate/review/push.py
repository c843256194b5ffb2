"""Put the images that matter most before people: each once, with its newest labels as a prediction, however often it is run."""

import hashlib
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from tilth.annotate.labelstudio.client import BATCH, Studio, start_it
from tilth.annotate.labelstudio.images import Images
from tilth.annotate.labelstudio.server import Server, default_home, running
from tilth.annotate.labelstudio.tasks import Row, digest
from tilth.annotate.review.asking import Asking
from tilth.annotate.review.ledger import Ledger
from tilth.engine.job import batched
from tilth.engine.steps import Facts
from tilth.engine.work import Work
from tilth.errors import InputError, TilthError, Unavailable
from tilth.samples import IMAGE

KEY = "LABEL_STUDIO_API_KEY"
READ_ROWS = 128  # images in memory at once


def own_server(url: str) -> Server | None:
    """Return the server that `tilth review up` started, when it is the one at this address or none is named."""
    server = running(default_home())
    return server if server and url.rstrip("/") in ("", server.url) else None


def _server(review: Asking, ledger: Ledger) -> tuple[str, Server | None]:
    """Return where the server is, and its notes when `tilth review up` started it.

    Raises:
        InputError: Nobody says so.
    """
    own = own_server(review.url or ledger.url)
    url = review.url or ledger.url or (own.url if own else "")
    if not url:
        raise InputError("no Label Studio is known; start one with tilth review up, or name one with --url")
    return url, own


def _lacking(url: str, message: str) -> TilthError:
    """Make the error of what is not known of a server; of one that is down, which may be our own, say that alone."""
    there = urlsplit(url)
    try:
        with socket.create_connection(
            (there.hostname or "", there.port or (443 if there.scheme == "https" else 80)), 5
        ):
            return InputError(message)
    except (OSError, ValueError):
        return Unavailable(f"Label Studio at {url} does not answer; {start_it(url)}, run again")


def open_studio(review: Asking, work: Work, ledger: Ledger, *, make: bool) -> Studio:
    """Connect to the project of a review.

    Args:
        review: Names the server; else the notes do, or the server that `tilth review up` started is taken.
        work: The surroundings.
        ledger: The notes; the project must be the one that they are of.
        make: Make the project when it is not there.

    Raises:
        InputError: No server or no key is known, or the project is not ours.
        Unavailable: The server does not answer.
    """
    url, own = _server(review, ledger)
    key = os.environ.get(KEY) or (own.key if own else "")
    if not key:
        raise _lacking(url, f"review with Label Studio needs its access token in the environment variable {KEY}")
    if not review.asked(work.policy):
        lacks = "that boxes can be drawn around" if IMAGE in review.media else "that words decide (evidence: text)"
        raise InputError(f"policy {work.policy.policy} has no category {lacks}")
    place = hashlib.sha256(str(work.dataset.root.resolve()).encode()).hexdigest()[:8]
    title = ledger.title or f"tilth {work.name[:30]} {place}"  # the server allows 50 letters
    studio = Studio(url, key, title, work.policy, people=review.people, make=make, media=review.media[0])
    try:
        ledger.belongs_to(studio)
        ledger.settle(studio, work.dataset)
    except BaseException:
        studio.__exit__()
        raise
    return studio


def push(review: Asking, work: Work, ledger: Ledger, *, top_up: bool = True) -> Facts:
    """Choose images, send those that the server lacks, and renew the predictions of those that nobody has looked at yet.

    Args:
        review: How to choose, and where to.
        work: The surroundings.
        ledger: The notes of the review.
        top_up: Choose more when people have worked some off, so that `budget` images wait for them; else choose once.

    Raises:
        InputError: A task is malformed, the project is another's, or images cannot be shown; nothing of that batch was sent.
        Unavailable: The server failed; the same command goes on.
    """
    url, own = _server(review, ledger)
    files: Path | None = review.files or (own.files if own else None)
    if IMAGE in review.media and review.images == "folder" and files is None:
        raise _lacking(
            url,
            f"Label Studio at {url} was not started by tilth review up, so review needs the setting files (--files): the "
            "folder that it serves local files from; or images: upload (--images upload)",
        )
    with open_studio(review, work, ledger, make=True) as studio:
        waiting = len(ledger.open)
        if not ledger.queue or top_up:
            more = review.queue(work, beside=ledger.queue.keys(), less=waiting)
            ledger.queue |= more
            ledger.save()
        images = Images(studio, review.images, files) if IMAGE in review.media else None
        sent = _send(images, studio, work, ledger)
        renewed = _renew(studio, work, ledger)
        ledger.at = work.dataset.at.number
        ledger.save()
        ledger.settle(studio, work.dataset)
        work.events.emit("review", project=studio.page, sent=sent, queue=len(ledger.queue))
        return {
            "project": studio.page,
            "sent": sent,
            "renewed": renewed,
            "waiting": len(ledger.open),
            "queue": len(ledger.queue),
            "deleted": len(ledger.deleted),
        }


def _send(images: Images | None, studio: Studio, work: Work, ledger: Ledger) -> int:
    known = set(ledger.tasks.values()) | set(ledger.deleted)
    todo = [sample for sample in ledger.queue if sample not in known]
    sent = 0

    def prepare(ids: Sequence[str]) -> list[Row]:
        tasks = []
        for some in batched(ids, READ_ROWS):
            samples = [sample for sample in work.dataset.read(some) if sample.data and not sample.drops]
            addresses = images.addresses(samples) if images else [""] * len(samples)  # a text is in its task
            for sample, address in zip(samples, addresses, strict=True):
                tasks.append(studio.form.task(sample, address, ledger.queue[sample.id]))
        return tasks

    with work.events.progress(f"{work.name}: push", len(todo)) as advance:
        for ids, tasks in ahead(prepare, list(batched(todo, BATCH))):
            numbers = studio.send(tasks) if tasks else []
            for number, task in zip(numbers, tasks, strict=True):
                sample = task["data"]["sample"]
                ledger.tasks[number] = sample
                ledger.shown[sample] = digest(*task["predictions"])
            for id_ in set(ids) - {task["data"]["sample"] for task in tasks}:  # dropped since it was chosen
                del ledger.queue[id_]
            ledger.save()
            sent += len(numbers)
            advance(len(ids))
    return sent


def ahead(
    prepare: Callable[[Sequence[str]], list[Row]], batches: Sequence[Sequence[str]]
) -> Iterator[tuple[Sequence[str], list[Row]]]:
    """Yield each batch with what is made of it, the next being made meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        waiting = [pool.submit(prepare, batch) for batch in batches[:1]]
        for number, batch in enumerate(batches):
            made = waiting.pop().result()
            waiting += [pool.submit(prepare, following) for following in batches[number + 1 : number + 2]]
            yield batch, made


def _renew(studio: Studio, work: Work, ledger: Ledger) -> int:
    """Show what the models say now of the images that wait, where it is not what they said before."""
    if ledger.at == work.dataset.at.number:
        return 0
    task_of = {sample: task for task, sample in ledger.tasks.items()}
    worked = studio.annotated()  # somebody may be looking at the old boxes of these
    renewed = 0
    for ids in batched((s for s in ledger.open if s in task_of and task_of[s] not in worked), BATCH):
        waiting = [(s, studio.form.prediction(s)) for s in work.dataset.read(ids, images=False)]
        changed = [(s, said) for s, said in waiting if digest(said) != ledger.shown.get(s.id)]
        if changed:
            studio.predict({task_of[s.id]: (s.size_wh, said) for s, said in changed})
            ledger.shown |= {s.id: digest(said) for s, said in changed}
            ledger.save()
            renewed += len(changed)
    return renewed
