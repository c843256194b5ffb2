"""What was asked of people and how far the answers are in: a file beside the dataset that a killed command goes on from.

The server knows more: whatever disagrees with its list of tasks is put right by that list.
"""

import json
import re
from dataclasses import dataclass, field, fields
from pathlib import Path

from tilth.annotate.labelstudio.client import BATCH, Studio
from tilth.data.dataset import Dataset
from tilth.data.files import write_beside
from tilth.engine.job import batched
from tilth.errors import InputError

IDENTITY = re.compile("[0-9a-f]{64}")  # of a sample; a task of the server may say anything


@dataclass(kw_only=True)
class Ledger:
    """The notes of one review.

    Args:
        path: The file.
        url: Of the server.
        title: Of the project.
        project: Its number.
        queue: Why each sample was chosen, the most urgent first.
        tasks: Sample of each task on the server.
        shown: Digest of the prediction that each sample was sent with.
        worked: Tasks that people have worked on, as far as pulled.
        people: How many people a disputed sample was offered to.
        deleted: Samples whose tasks somebody deleted on the server; they are not sent again.
        foreign: Number of tasks that are none of ours.
        at: Version of the dataset that was last sent from.
        pulled: Samples of which pulls brought something new since a run last counted it.
        seen_until: Time of the server's clock up to which changes are pulled.
    """

    path: Path
    url: str = ""
    title: str = ""
    project: int = 0
    queue: dict[str, str] = field(default_factory=dict)
    tasks: dict[int, str] = field(default_factory=dict)
    shown: dict[str, str] = field(default_factory=dict)
    worked: list[int] = field(default_factory=list)
    people: dict[str, int] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    foreign: int = 0
    at: int = 0
    seen_until: str = ""
    pulled: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> "Ledger":
        """Read the file, or begin one.

        Raises:
            InputError: The file is not one of ours.
        """
        if not path.exists():
            return cls(path=path)
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
            row["tasks"] = {int(task): str(sample) for task, sample in row["tasks"].items()}
            return cls(path=path, **row)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(
                f"{path}: not the notes of a review ({error!r}); move it away, the server's list replaces it"
            ) from error

    def save(self) -> None:
        """Write the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_beside(self.path, json.dumps({f.name: getattr(self, f.name) for f in fields(self) if f.name != "path"}))

    def belongs_to(self, studio: Studio) -> None:
        """Note the project.

        Raises:
            InputError: The notes are of another.
        """
        if self.project and self.project != studio.project:  # the address may change, as with another port
            raise InputError(
                f"{self.path} is of project {self.project} at {self.url}, which is not {studio.page}; was it deleted? "
                "Move that file away to begin again"
            )
        self.url, self.title, self.project = studio.url, studio.title, studio.project

    @property
    def open(self) -> list[str]:
        """The samples that nobody has worked on yet."""
        gone = {self.tasks[task] for task in self.worked if task in self.tasks} | set(self.deleted)
        return [sample for sample in self.queue if sample not in gone]

    def settle(self, studio: Studio, dataset: Dataset) -> None:
        """Make the notes agree with the server's list of tasks: after a kill, and when somebody deleted tasks there.

        A request that was cut off may have been carried out later, so a sample can have two tasks; one that nobody has worked on
        is deleted. Tasks of our samples that the notes do not know are taken into them.
        """
        if studio.total() == len(self.tasks) + self.foreign:
            return
        said = {int(row["id"]): row["data"] if isinstance(row.get("data"), dict) else {} for row in studio.slim()}
        samples = {task: str(data.get("sample")) for task, data in said.items()}
        unknown = [i for i in dict.fromkeys(samples.values()) if i not in self.queue and IDENTITY.fullmatch(i)]
        ours = {i for ids in batched(unknown, BATCH) for i in dataset.contains(ids)} | self.queue.keys()
        listed = {task: sample for task, sample in samples.items() if sample in ours}
        for task, sample in listed.items():
            self.queue.setdefault(sample, str(said[task].get("why") or ""))
        self.foreign = len(samples) - len(listed)
        self._remove_doubles(studio, listed)
        there = set(listed.values())
        lost = {sample for sample in self.tasks.values() if sample not in there}
        self.deleted = sorted((set(self.deleted) | lost) - there)
        self.tasks = listed
        self.worked = [task for task in self.worked if task in listed]
        self.save()

    @staticmethod
    def _remove_doubles(studio: Studio, listed: dict[int, str]) -> None:
        tasks_of: dict[str, list[int]] = {}
        for task, sample in listed.items():
            tasks_of.setdefault(sample, []).append(task)
        doubles = [tasks for tasks in tasks_of.values() if len(tasks) > 1]
        worked = studio.annotated() if doubles else set()
        for tasks in doubles:
            for task in sorted(tasks, key=lambda t: (t not in worked, t))[1:]:
                if task not in worked:
                    studio.remove(task)
                    del listed[task]
