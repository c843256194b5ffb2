"""Run a recipe: each step once, resumable, measured.

    runs/<name>/recipe.yaml     the recipe as resolved
    runs/<name>/dataset/        the dataset, unless the recipe names one that outlives runs
    runs/<name>/steps/*.json    what each finished step reported; its existence means the step is done
    runs/<name>/files/<step>/   files that steps leave: models, predictions, the bundle
    runs/<name>/events.jsonl    what happened, as it happened
    runs/<name>/summary.json    every number of the report
    runs/<name>/report.html     the report

The key of a step is its settings, the weights of its models, the files that it reads and the key of the step before it. A
step whose key is unchanged is not run again; one whose key changed starts from the dataset version that came before it.

In a dataset that outlives runs (`dataset:` in the recipe) nothing goes back: each step starts from the newest version, so that what people
said, in other runs or beside them, is never left behind. The run holds it against every other one.
"""

import contextlib
import ctypes
import gc
import hashlib
import json
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import psutil
import yaml

from tilth import models
from tilth.annotate.review.review import Review
from tilth.claims import Json
from tilth.data.dataset import Dataset, Guard
from tilth.data.files import alone, write_beside
from tilth.engine.local import Local
from tilth.engine.recipe import Recipe, absent_inputs
from tilth.engine.steps import fingerprint, inputs_digest
from tilth.engine.work import Executor, Step, Work, utc_now
from tilth.errors import GateRefused, InputError, TilthError, Unavailable, is_full_disk
from tilth.events import Events
from tilth.mining.copies.listed import guard_of, sweep
from tilth.pipeline.foresight import foresee
from tilth.pipeline.forward import forget
from tilth.pipeline.track import check_tracker, track
from tilth.synth.identity.swap import FaceSwap

RUNNING = "running.json"  # in a dataset that outlives runs: who is at work, and from which version
STOP = "enough"  # a step that reports this, a sentence why, ends its run, which is done then
ANOTHER = "wait for it or give another --name"


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What the person who runs a recipe decides, beside the recipe."""

    device: str = "auto"
    retry_failed: bool = False
    until: str = ""
    executor: Executor = field(default_factory=Local)
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Record:
    """A finished step."""

    key: str
    kind: str
    version: int
    seconds: float
    peak_rss_mb: float
    facts: dict[str, Json]
    artifacts: dict[str, str]
    models: dict[str, str]
    started: str
    finished: str
    tables: tuple[str, ...] = ()


class PeakMemory:
    """Watches the memory of this process and its children while a step runs."""

    def __init__(self, every_s: float = 0.25) -> None:
        self._every_s = every_s
        self._stop = threading.Event()
        self.peak_mb = 0.0

    def _watch(self) -> None:
        process = psutil.Process()
        while True:
            total = 0
            for each in [process, *process.children(recursive=True)]:
                try:
                    total += each.memory_info().rss
                except psutil.Error:  # it ended meanwhile
                    continue
            self.peak_mb = max(self.peak_mb, total / 2**20)
            if self._stop.wait(self._every_s):
                return

    def __enter__(self) -> "PeakMemory":
        """Give back what earlier steps are done with, and start watching."""
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):  # another C library keeps what it has
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join()


class Run:
    """One execution of a recipe.

    Args:
        recipe: What to do.
        folder: `runs/<name>`; made when absent.
        choices: Decisions of the person.
        events: Where to report; `events.jsonl` and standard error when None.

    Raises:
        InputError: Files that the recipe needs are absent; all are listed, and nothing is begun.
    """

    def __init__(
        self, recipe: Recipe, folder: Path, choices: Choices | None = None, events: Events | None = None
    ) -> None:
        self.recipe, self.folder, self.choices = recipe, folder, choices or Choices()
        self._look_for_inputs()
        folder.mkdir(parents=True, exist_ok=True)
        self.events = events or Events(folder / "events.jsonl")
        self.records: dict[str, Record] = {}
        self._artifacts: dict[str, Path] = {}
        self._version = 0
        self._outcome = "done"
        self._fresh = False  # nothing was done yet that nobody has been told
        self._root = recipe.dataset or folder / "dataset"
        self._guard = guard_of(recipe.policy)

    def execute(self) -> Path:
        """Run what is not done yet and return the run's folder.

        Raises:
            TilthError: A step failed; what is done is kept.
        """
        started, began = utc_now(), time.monotonic()
        with ExitStack() as held:
            held.callback(self.events.close)
            held.enter_context(alone(self.folder, ANOTHER))
            if self.recipe.dataset:
                held.enter_context(alone(self.recipe.dataset))
            write_beside(self.folder / "recipe.yaml", yaml.safe_dump(self._resolved(), sort_keys=False))
            self.events.emit("run", message=f"{self.recipe.name}: {len(self.recipe.steps)} steps in {self.folder}")
            policy = self.recipe.policy.model_dump_json(exclude={"hash_lists"})
            shown = tuple(path for category in self.recipe.policy.categories for path in category.examples)
            told = f"{self.recipe.seed} {policy}{self._sweep()}{inputs_digest(shown) if shown else ''}"
            key = hashlib.sha256(told.encode()).hexdigest()[:12]
            left, version = self._left(key)
            dataset = Dataset(self._root, self._at(version), self._guard) if version or self.recipe.dataset else None
            found = foresee(left, self.recipe.policy, self.choices.options.get("review", ""), dataset)
            found.refuse()
            for note in found.notes:
                self.events.emit("foreseen", message=f"  note: {note}")
            try:
                for number, (name, step) in enumerate(self.recipe.steps.items(), 1):
                    key = self._key(step, key)
                    self._take(number, name, step, key)
                    if enough := self.records[name].facts.get(STOP):
                        self._outcome = "stopped"
                        self.events.emit("enough", step=name, message=f"  {enough}")
                        break
                    if name == self.choices.until:
                        self._outcome = "until"
                        break
            except GateRefused:
                self._outcome = "refused"
                self._conclude(started)  # a refusal is a result: people want to see why
                raise
            self._conclude(started)
            self.events.emit("done", message=f"Done in {time.monotonic() - began:.0f} s: {self.folder / 'report.html'}")
        return self.folder

    def _look_for_inputs(self) -> None:
        """Miss a file now and not hours into the run."""
        names = list(self.recipe.steps)
        last = names.index(self.choices.until) + 1 if self.choices.until else len(names)
        if wrong := needed_inputs(self.recipe, self.choices.options.get("review", ""), last):
            raise InputError("\n".join(wrong))
        if self.recipe.track:
            check_tracker(self.recipe.track)
        self._ahead = {n: self.recipe.steps[n] for n in names[:last]}

    def _left(self, key: str) -> tuple[dict[str, Step], int]:
        """Return the steps from the first one on that is not done, and the version before it; of the others nothing can go wrong."""
        names, version = list(self._ahead), 0
        for number, name in enumerate(names, 1):
            record = read_record(self.folder / "steps" / f"{number:02d}-{name}.json")
            if record is None or self.choices.retry_failed:
                return {n: self._ahead[n] for n in names[number - 1 :]}, version
            try:
                key = self._key(self._ahead[name], key)
            except TilthError:  # the model of a step that was done is gone
                key = ""
            if record.key != key:
                return {n: self._ahead[n] for n in names[number - 1 :]}, version
            version = record.version
        return {}, version

    def _resolved(self) -> dict[str, Any]:
        places = {"policy": self.recipe.policy_path} | ({"dataset": self.recipe.dataset} if self.recipe.dataset else {})
        return {**self.recipe.document, **{name: str(path.resolve()) for name, path in places.items()}}

    def _key(self, step: Step, before: str) -> str:
        review = self.choices.options.get("review", "") if isinstance(step, Review) else ""  # not where it runs
        over = sorted(step.ended(date.today())) if isinstance(step, FaceSwap) else []  # consents end by themselves
        return fingerprint(step, before, inputs_digest(step.inputs()), review, *over)

    def _take(self, number: int, name: str, step: Step, key: str) -> None:
        path = self.folder / "steps" / f"{number:02d}-{name}.json"
        record = read_record(path)
        done = record is not None and record.key == key
        label = f"[{number}/{len(self.recipe.steps)}] {name}"
        if done and record is not None and not (self.choices.retry_failed and _failed(record)):
            self.events.emit("skipped", step=name, message=f"{label}: done before")
        else:
            self.events.emit("started", step=name, message=label)
            record = self._do(name, step, key)
            self._fresh = True
            path.parent.mkdir(exist_ok=True)
            write_beside(path, json.dumps(vars(record), indent=1))
            (self._root / RUNNING).unlink(missing_ok=True)
            brief = brief_facts(record.facts)
            self.events.emit(
                "finished",
                step=name,
                seconds=record.seconds,
                peak_rss_mb=record.peak_rss_mb,
                facts=brief,
                message=f"  {record.seconds:.0f} s, {record.peak_rss_mb:.0f} MB"
                + "".join(f", {k} {v}" for k, v in brief.items()),
            )
        self.records[name] = record
        self._artifacts |= {k: self.folder / v for k, v in record.artifacts.items()}
        self._version = self._dataset().at.number if self.recipe.dataset else record.version

    def _dataset(self) -> Dataset:
        return Dataset(self._root, self._at(self._version), self._guard)

    def _at(self, version: int) -> int | None:
        """Return the version to start from; the newest of a dataset that outlives runs."""
        return None if self.recipe.dataset else version

    def _sweep(self) -> str:
        """Take out what has come onto a hash list since the last run; return a key of all that was ever taken out."""
        dataset = self._dataset()
        for id_ in sweep(dataset, self._guard, utc_now()):
            self.events.emit("quarantined", id=id_)
        log = dataset.root / "quarantine.jsonl"
        swept = (
            [row["id"] for row in map(json.loads, log.read_text().splitlines()) if "id" in row] if log.exists() else []
        )
        return " ".join(sorted(swept))

    def _begin(self, name: str, step: Step, key: str) -> Dataset:
        """Open the dataset for a step; one that outlives runs where this very step began, if it was killed and nobody came since."""
        if not self.recipe.dataset:
            return self._dataset()
        dataset = open_at_work(self._root, name, f"{self.folder.resolve()} {key}", self._guard)
        # anew, of all, also of what later steps will decide anew; a version without their older tables is never committed by itself
        if getattr(step, "decides", False):
            names = list(self.recipe.steps)
            later = {n for n in names[names.index(name) + 1 :] if getattr(self.recipe.steps[n], "decides", False)}
            old = [ref for ref in dataset.at.tables if not ref.adds]
            dataset.decide_anew([r for r in old if r.step == name], [r for r in old if r.step in later])
        return dataset

    def _do(self, name: str, step: Step, key: str) -> Record:
        files = self.folder / "files" / f"{name}-{key}"
        files.mkdir(parents=True, exist_ok=True)
        work = Work(
            name=name,
            dataset=self._begin(name, step, key),
            policy=self.recipe.policy,
            folder=files,
            events=self.events,
            artifacts=dict(self._artifacts),
            facts={n: dict(r.facts) for n, r in self.records.items()},
            seed=self.recipe.seed,
            device=self.choices.device,
            retry_failed=self.choices.retry_failed,
            max_fail_rate=self.recipe.max_fail_rate,
            executor=self.choices.executor,
            options=dict(self.choices.options),
        )
        work.show_own(step)
        started, began, refused = utc_now(), time.monotonic(), None
        with PeakMemory() as memory:
            try:
                facts = step.run(work)
            except GateRefused as error:
                facts, refused = error.facts, error
            except OSError as error:
                if isinstance(error, TilthError) or not is_full_disk(error):
                    raise
                raise Unavailable(
                    f"{name}: the disk is full; free some space and run the same command again"
                ) from error
            except Exception:
                (self._root / RUNNING).unlink(missing_ok=True)  # it was not killed: what it kept is found without this
                raise
        new = {k: str(p.relative_to(self.folder)) for k, p in work.artifacts.items() if self._artifacts.get(k) != p}
        record = Record(
            key=key,
            kind=type(step).__name__,
            version=work.dataset.at.number,
            seconds=round(time.monotonic() - began, 2),
            peak_rss_mb=round(memory.peak_mb, 1),
            facts=dict(facts),
            artifacts=new,
            models={m: models.digest(m) for m in step.models()},
            started=started,
            finished=utc_now(),
            tables=tuple(sorted(work.dataset.opened)),
        )
        if refused is not None:
            self._fresh = True
            self.records[name] = record  # for summary and report; it is not done, and the same command asks it again
            self.events.emit("refused", step=name, facts=brief_facts(facts), message=f"  refused: {refused}")
            raise refused
        return record

    def _forget(self) -> None:
        """Let a dataset that outlives its runs not grow with their number; only after one that went through all steps."""
        dataset, used = self._dataset(), {name: record.tables for name, record in self.records.items()}
        tables, versions = forget(dataset, str(self.folder.resolve()), used, self.recipe.steps, utc_now())
        self._version = dataset.at.number
        if tables or versions:
            told = f"  {tables} tables of earlier nights carried forward, {versions} old versions let go of"
            self.events.emit("forgot", tables=tables, versions=versions, message=told)

    def _conclude(self, started: str) -> None:
        if self.recipe.dataset and self._outcome in ("done", "refused"):
            self._forget()
        write_beside(self.folder / "summary.json", json.dumps(self._summary(started), indent=1))
        self._report()
        if self.recipe.track and self._fresh:
            settings = {"seed": str(self.recipe.seed), "policy": self.recipe.policy.tag, **self.recipe.variables}
            facts = {name: record.facts for name, record in self.records.items()}
            count = track(self.recipe.track, self.recipe.name, self.folder, settings, facts)
            self.events.emit("tracked", message=f"  {count:,} numbers sent to {self.recipe.track}")

    def _summary(self, started: str) -> dict[str, Any]:
        evaluations = {
            n.removeprefix("evaluate."): r.facts for n, r in self.records.items() if n.startswith("evaluate.")
        }
        effort = [r.facts for n, r in self.records.items() if "human_actions" in r.facts and not n.startswith("random")]
        return {
            "recipe": self.recipe.name,
            "run": self.folder.name,
            "outcome": self._outcome,
            "seed": self.recipe.seed,
            "policy": {"name": self.recipe.policy.policy, "version": self.recipe.policy.version},
            "started": min([started, *(r.started for r in self.records.values())]),
            "finished": max([r.finished for r in self.records.values()], default=started),
            "version": self._version,
            **evaluations,
            "benchmark": self._benchmark(),
            "human_actions": sum(int(str(f["human_actions"])) for f in effort),
            "seconds": {n: r.seconds for n, r in self.records.items()},
            "peak_rss_mb": {n: r.peak_rss_mb for n, r in self.records.items()}
            | {"run": max((r.peak_rss_mb for r in self.records.values()), default=0.0)},
            "steps": {
                n: {
                    "kind": r.kind,
                    "seconds": r.seconds,
                    "facts": r.facts,
                    "models": r.models,
                    "version": r.version,
                    "artifacts": r.artifacts,
                }
                for n, r in self.records.items()
            },
        }

    def _benchmark(self) -> Json:
        """Read what a benchmark of this recipe found earlier, `<recipe>.benchmark.json` beside it."""
        path = self.recipe.path.with_suffix(".benchmark.json")
        return dict(json.loads(path.read_text())) if path.exists() else None

    def _report(self) -> None:
        from tilth.pipeline.report.page import write_report

        write_report(self.folder, self._dataset(), self.recipe.policy)


def open_at_work(root: Path, name: str, does: str, guard: Guard | None) -> Dataset:
    """Open a dataset for a piece of work, and note who is at it and from which version.

    It is opened where this very work began, if it was killed and nobody has worked on the dataset since; else at its newest version.

    Args:
        root: Of the dataset.
        name: Of the step.
        does: What it does with which settings.
        guard: Of the dataset.
    """
    running, at = root / RUNNING, None
    try:
        told = json.loads(running.read_text())
        at = int(told["at"]) if does and (told["name"], told["does"]) == (name, does) else None
    except (FileNotFoundError, ValueError):
        pass
    dataset = Dataset(root, at, guard)
    write_beside(running, json.dumps({"name": name, "does": does, "at": dataset.at.number}))
    return dataset


def dataset_of(folder: Path) -> Path:
    """Return where the dataset of a run lies.

    Args:
        folder: The run's.
    """
    path = folder / "recipe.yaml"
    named = (yaml.safe_load(path.read_text()) or {}).get("dataset") if path.exists() else None
    return Path(named) if named else folder / "dataset"


def needed_inputs(recipe: Recipe, review: str = "", last: int | None = None) -> list[str]:
    """Say which files a recipe would look for in vain.

    Args:
        recipe: The recipe.
        review: Who reviews, instead of what the recipe says; people need no file of truth.
        last: Number of steps that are to be run; all when None.
    """
    people = review == "labelstudio"
    steps = {n: s for n, s in list(recipe.steps.items())[:last] if not (people and isinstance(s, Review))}
    return absent_inputs(steps, recipe.variables)


def read_record(path: Path) -> Record | None:
    """Read what a finished step reported; None while it is not finished."""
    try:
        return Record(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None


def brief_facts(facts: Mapping[str, Json], limit: int = 4) -> dict[str, Json]:
    """Pick the first few single numbers and words of a step's facts, for one line on a terminal that has its seconds."""
    plain = {
        k: round(v, 3) if isinstance(v, float) else v
        for k, v in facts.items()
        if isinstance(v, int | float | str) and k != "seconds" and (k, v) != ("failed", 0)
    }
    return dict(list(plain.items())[:limit])


def _failed(record: Record) -> bool:
    return bool(record.facts.get("failed"))
