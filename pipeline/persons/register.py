"""The register: vectors of people who agreed to be recognised, each in a file of its own, so that erasing somebody is deleting files.

register.json               which networks the vectors are of, and the folders in which copies are kept
records/<name>.safetensors  vectors and qualities of one record's references
queue.jsonl                 matches that wait for a person to look at them
audit.jsonl                 who did what when; names of records, never of people
erased.jsonl                records that were forgotten: a copy that comes back with a restored backup is deleted when it is seen

Vectors of pictures that are looked through are never kept: most people in them agreed to nothing.
"""

import getpass
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from tilth import models
from tilth.data.dataset import Dataset
from tilth.data.files import write_beside
from tilth.engine.work import utc_now
from tilth.errors import InputError, Unavailable
from tilth.images import decode, image_id
from tilth.synth.identity.faces import finder
from tilth.synth.safety.consent import NAME, Consent, load_consents
from tilth.train.persons.album import seen_in
from tilth.train.persons.calibrating import vectors_of
from tilth.train.persons.cues import CUES, Seen, see
from tilth.train.persons.embedder import load
from tilth.train.persons.scores import Pictures

PURPOSE = "recognition"  # a consent's scope must name it
SUFFIX = ".safetensors"


@dataclass(frozen=True, kw_only=True)
class Enrolled:
    """Somebody on the list: the record's name, and its references."""

    record: str
    references: Pictures


class Register:
    """A register on disk.

    Args:
        root: Its folder.
        now: The clock, as claims write time.

    Raises:
        InputError: There is none.
    """

    def __init__(self, root: Path, now: Callable[[], str] = utc_now) -> None:
        self.root, self._now = root, now
        path = root / "register.json"
        if not path.exists():
            raise InputError(
                f"{root}: no register here; begin one with: tilth person enrol {root} RECORD --model FOLDER"
            )
        self.about: dict[str, Any] = json.loads(path.read_text())
        self._erase(self._erased())  # what came back with a backup

    @classmethod
    def begin(
        cls, root: Path, model: Path, backups: Sequence[Path] = (), now: Callable[[], str] = utc_now
    ) -> "Register":
        """Open a register, or make one for these networks.

        Raises:
            InputError: It holds vectors of other networks, or keeps copies elsewhere.
        """
        path = root / "register.json"
        told = {
            "model": str(model.resolve()),
            "digest": models.digest(str(model)),
            "backups": [str(p.resolve()) for p in backups],
        }
        if path.exists():
            there = json.loads(path.read_text())
            if there["digest"] != told["digest"]:
                raise InputError(
                    f"{root}: holds vectors of {there['model']}, not of {model}; give another folder, and enrol there anew"
                )
            if backups and there["backups"] != told["backups"]:
                raise InputError(
                    f"{root}: keeps copies in {', '.join(there['backups']) or 'no other folder'}; --backup is said once, at first"
                )
        else:
            (root / "records").mkdir(parents=True, exist_ok=True)
            write_beside(path, json.dumps(told, indent=1))
        return cls(root, now)

    @property
    def model(self) -> Path:
        """The folder of the networks."""
        return Path(str(self.about["model"]))

    def _places(self) -> list[Path]:
        return [self.root / "records", *(Path(str(p)) for p in self.about["backups"])]

    def note(self, what: str, **told: Any) -> None:
        """Write into the audit log."""
        line = {"time": self._now(), "by": getpass.getuser(), "what": what, **told}
        with (self.root / "audit.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    # enrolment

    def enrol(self, path: Path, dataset: Dataset | None = None, detector: str = "") -> dict[str, Any]:
        """Take somebody in, by their consent record.

        Args:
            path: The record.
            dataset: In which boxes of the references are; OpenCV's face detector looks for a face where it has none.
            detector: YuNet's ONNX file instead of the cascade that comes with OpenCV.

        Raises:
            InputError: The record does not allow it, or a reference does not show exactly one person.
        """
        [record] = load_consents([path])
        record.require(purpose=PURPOSE, today=date.fromisoformat(self._now()[:10]))
        if not record.references:
            raise InputError(
                f"{path}: the record has no references, so there is nothing to recognise {record.record} by"
            )
        if record.record in self._erased():
            raise InputError(
                f"{path}: {record.record} was forgotten; who agrees again signs a new record, with a name of its own"
            )
        networks, about = load(self.model)
        seen = [
            self._only(record, k, data, int(about["side"]), dataset, detector)
            for k, data in enumerate(record.references_read())
        ]
        found = vectors_of(seen, networks, int(about["width"]), "cpu")
        self._keep(record, path, found)
        counts = {cue: int(found.seen[:, k].sum()) for k, cue in enumerate(CUES)}
        self.note(
            "enrol",
            record=record.record,
            digest=record.digest,
            basis=record.basis,
            expires=str(record.expires),
            references=len(seen),
        )
        return {"record": record.record, "references": len(seen), "cues": counts, "expires": str(record.expires)}

    @staticmethod
    def _only(record: Consent, k: int, data: bytes, side: int, dataset: Dataset | None, detector: str) -> Seen:
        """Return the only person that a reference shows."""
        image = decode(data)
        people: list[Seen] = []
        if dataset is not None and dataset.contains([id_ := image_id(image)]):
            people = seen_in(dataset.read([id_])[0], side)
        if not people:
            people = [see(image, {"face": (face.box_xyxy, face.score)}, side) for face in finder(detector, 0.6)(image)]
        if len(people) != 1:
            raise InputError(
                f"consent {record.record}: {record.references[k].file} must show its subject alone, {len(people)} people found; "
                "import the references and box them (docs/persons.md), and give --dataset"
            )
        return people[0]

    def _keep(self, record: Consent, path: Path, found: Pictures) -> None:
        """Write the vectors here and into every folder of copies.

        Raises:
            Unavailable: One of these is not there.
        """
        from safetensors.numpy import save

        told = {"record": record.record, "consent": str(path.resolve()), "digest": record.digest}
        tensors: dict[str, np.ndarray[Any, Any]] = {**found.vectors}
        tensors |= {"seen": found.seen.astype(np.uint8), "quality": found.quality}
        data = save(tensors, metadata=told)
        for place in self._places():
            if not place.is_dir():
                raise Unavailable(f"{place}: the folder of copies is not there; nothing was enrolled without its copy")
        for place in self._places():
            partial = place / f"{record.record}.partial"
            partial.write_bytes(data)
            partial.replace(place / f"{record.record}{SUFFIX}")

    def enrolled(self) -> tuple[list[Enrolled], dict[str, str]]:
        """Return whom to look for today, and of the others why not, by record: each record is read again, as it may have ended."""
        from safetensors import safe_open

        today = date.fromisoformat(self._now()[:10])
        found, left_out = [], {}
        for path in sorted((self.root / "records").glob(f"*{SUFFIX}")):
            with safe_open(path, framework="np") as tensors:
                told = tensors.metadata()
                try:
                    [record] = load_consents([Path(told["consent"])])
                    record.require(purpose=PURPOSE, today=today)
                except (InputError, OSError) as error:
                    left_out[told["record"]] = str(error).splitlines()[0]
                    continue
                vectors = {cue: tensors.get_tensor(cue) for cue in CUES}
                seen, quality = tensors.get_tensor("seen").astype(bool), tensors.get_tensor("quality")
            found.append(
                Enrolled(record=told["record"], references=Pictures(vectors=vectors, seen=seen, quality=quality))
            )
        return found, left_out

    # the queue

    def queue(self, rows: Iterable[dict[str, Any]]) -> int:
        """Let matches wait for a person; what waits already is not asked twice. Returns how many are new."""
        path = self.root / "queue.jsonl"
        there = self.waiting()
        known = {(row["id"], row["record"], row["person"]) for row in there}
        new = [row for row in rows if (row["id"], row["record"], row["person"]) not in known]
        write_beside(path, "".join(json.dumps(row) + "\n" for row in [*there, *new]))
        return len(new)

    def waiting(self) -> list[dict[str, Any]]:
        """Return the matches that wait."""
        path = self.root / "queue.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    # erasure

    def _erased(self) -> set[str]:
        path = self.root / "erased.jsonl"
        return {json.loads(line)["record"] for line in path.read_text().splitlines()} if path.exists() else set()

    def forget(self, names: Sequence[str]) -> dict[str, Any]:
        """Erase records: vectors here and in every folder of copies, and what waits because of them.

        Raises:
            InputError: A name was never enrolled, and is nowhere.
            Unavailable: A folder of copies is not there; what is in it is erased when it is seen again.
        """
        for name in names:
            there = (
                [place for place in self._places() if (place / f"{name}{SUFFIX}").exists()]
                if NAME.fullmatch(name)
                else []
            )
            if not there and name not in self._erased():
                known = sorted(path.stem for path in (self.root / "records").glob(f"*{SUFFIX}"))
                raise InputError(f"{self.root}: no record {name!r} here; enrolled are: {', '.join(known) or 'none'}")
        with (self.root / "erased.jsonl").open(
            "a", encoding="utf-8"
        ) as stream:  # first, so that a kill leaves nobody half forgotten
            stream.writelines(json.dumps({"time": self._now(), "record": name}) + "\n" for name in names)
        files = self._erase(names)
        left = [row for row in self.waiting() if row["record"] not in names]
        dropped = len(self.waiting()) - len(left)
        write_beside(self.root / "queue.jsonl", "".join(json.dumps(row) + "\n" for row in left))
        away = [str(place) for place in self._places() if not place.is_dir()]
        self.note("forget", records=list(names), files=files, waiting=dropped, away=away)
        if away:
            raise Unavailable(
                f"{', '.join(away)}: not there, so copies in it are not erased yet; run the same command when it is back"
            )
        return {"forgotten": list(names), "files": files, "no_longer_waiting": dropped}

    def _erase(self, names: Iterable[str]) -> int:
        """Delete the files of records wherever they are, and return how many those were."""
        count = 0
        for name in names:
            for place in self._places():
                for path in (place / f"{name}{SUFFIX}", place / f"{name}.partial"):
                    if path.exists():
                        path.unlink()
                        count += 1
        return count
