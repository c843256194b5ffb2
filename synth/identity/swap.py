"""Give persons in training images the faces of others who consented, so that a classifier does not learn who they are."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from datetime import date
from pathlib import Path
from typing import ClassVar

import numpy as np

from tilth import models
from tilth.claims import Json
from tilth.data.files import write_beside
from tilth.data.where import STYLE, both, quoted
from tilth.engine.intake import Failed
from tilth.engine.steps import Facts, fingerprint, group, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.images import decode
from tilth.origins.packet import COMPOSITE
from tilth.policy import Policy
from tilth.samples import NewSample, Sample
from tilth.synth.draw.settings import Files
from tilth.synth.identity.aligning import paste
from tilth.synth.identity.ended import CHILDREN, drop_ended
from tilth.synth.identity.faces import Find, FindFaces, face_of, finder
from tilth.synth.identity.networks import Embedder, Network, Swapper, Vector, unit
from tilth.synth.identity.parents import PARENTS, Chooser, Plan, Swap, carried, untouched
from tilth.synth.safety.consent import Consent, against_category, against_faces, load_consents, records_in
from tilth.synth.safety.provenance import licence_of_all
from tilth.synth.safety.refusals import version

METHOD = "face_swap"
COMMIT_ROWS = 16  # images that a kill can lose


@group
class Networks:
    """What finds, tells apart and draws faces; none comes with Tilth but the cascade.

    Args:
        swapper: Draws a face by an embedding, as inswapper does.
        embedder: Makes embeddings of the kind that the swapper was taught with.
        detector: YuNet's ONNX file; the Haar cascade of OpenCV when empty.
        threshold: Least score of a face that YuNet finds.
        min_side: Least pixels of the shorter side of a face that is replaced.
    """

    swapper: Network = field(default_factory=Network)
    embedder: Network = field(default_factory=Network)
    detector: str = ""
    threshold: float = 0.6
    min_side: int = 32

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold must lie in (0, 1], got {self.threshold}")
        if self.min_side < 8:
            raise ValueError(f"min_side must be at least 8 pixels, got {self.min_side}")
        if self.detector and not self.detector.endswith(".onnx"):
            raise ValueError(f"detector names a file that ends in .onnx, got {self.detector!r}")


@step
class FaceSwap:
    """Make images in which a person has the face of another who consented.

    Nothing is made without consent records, one for each face that is given and one for each that is replaced, unless it was drawn by a
    model from words alone. Nothing sexual or violent, and nothing with minors, is ever made, and no setting allows it.

    Args:
        consent: Files of the consent records; docs/identity.md has the format.
        purpose: What the images are for; every record must allow it.
        categories: That parents must show one of; when empty, all that a record covers, and images that show none.
        count: Most images to make.
        per_image: Images to make of a parent, each with another face.
        networks: What finds and draws faces, as in `{swapper: {onnx: swap.onnx, code: MIT, weights: research only, data: unknown}}`.
        files: How what is made is written, as in `{kind: webp}`.
    """

    decides: ClassVar[bool] = True  # which images of consents that ended are dropped

    consent: tuple[Path, ...] = ()
    purpose: str = "training"
    categories: tuple[str, ...] = ()
    count: int = 1000
    per_image: int = 1
    networks: Networks = field(default_factory=Networks)
    files: Files = field(default_factory=Files)

    def __post_init__(self) -> None:
        """Check the numbers, and refuse purposes that are never allowed."""
        if self.count < 1 or self.per_image < 1:
            raise ValueError(f"count and per_image must be at least 1, got {self.count} and {self.per_image}")
        if not self.purpose.strip():
            raise ValueError("purpose must say what the images are for, as the consent records do")
        if reason := against_faces({"purpose": self.purpose}):
            raise ValueError(f"refused: identity augmentation is never used for {reason}; no setting allows it")

    def models(self) -> tuple[str, ...]:
        """Name the networks."""
        networks = self.networks
        return tuple(name for name in (networks.swapper.onnx, networks.embedder.onnx, networks.detector) if name)

    def inputs(self) -> tuple[Path, ...]:
        """Name the records."""
        return self.consent

    def ended(self, today: date) -> dict[str, str]:
        """Return the records that do not hold any more, with the reason.

        Raises:
            InputError: A record has mistakes.
        """
        return {r.record: why for r in (load_consents(self.consent) if self.consent else []) if (why := r.ended(today))}

    def check(self, policy: Policy, today: date) -> dict[str, str]:
        """Refuse what is not allowed; return the policy's categories that no face is put into images of, with the reason.

        Raises:
            InputError: A record does not hold today or not for this, a category is never allowed or not covered, or a network is missing.
        """
        records = load_consents(self.consent)
        for record in records:
            record.require(purpose=self.purpose, today=today)
            record.references_read()
        sources = [record for record in records if record.references]
        if not sources:
            raise InputError("no consent record has references, so nobody gives a face")
        policy.check_pictured(self.categories, "face_swap")
        never = {c.name: reason for c in policy.categories if (reason := against_category(c))}
        for name in self.categories:
            if name in never:
                raise InputError(
                    f"refused: {name} is {never[name]}, for which identity augmentation is never used; no setting allows it"
                )
            if all(record.lacks([name]) for record in sources):
                raise InputError(f"no consent that gives a face covers {name!r}")
        for role in ("swapper", "embedder"):
            if not getattr(self.networks, role).onnx:
                raise InputError(
                    f"networks: {role} needs an ONNX file, as in {{{role}: {{onnx: {role}.onnx, code: …}}}}"
                )
        return never

    def run(self, work: Work) -> Facts:
        """Drop what was made with consents that ended, then make what is not made yet.

        Raises:
            InputError: Something is not allowed; `check` says what.
        """
        today = date.fromisoformat(work.now()[:10])
        dropped = drop_ended(work, self.ended(today))
        never = self.check(work.policy, today)
        records = {record.record: record for record in load_consents(self.consent)}
        plan = self._kept_plan(work, list(records.values()))
        facts: dict[str, Json] = {
            "planned": len(plan.swaps),
            "with_faces": plan.with_faces,
            "left_out": dict(plan.left_out.most_common(30)),
            "never": never,
            "dropped_with_their_consent": dropped,
            "records": {name: record.digest for name, record in records.items()},
        }
        if not plan.swaps:
            return {"made": 0, "failed": 0, **facts}
        swaps = json.dumps([vars(swap) for swap in plan.swaps])
        key = fingerprint(self, str(work.seed), *(record.digest for record in records.values()), swaps)
        done, began = work.added(key), time.monotonic()
        maker = Maker(work, self, records, key)
        counts = work.add(
            key, maker.make(plan.swaps[done:]), total=len(plan.swaps), starts_at=done, commit_rows=COMMIT_ROWS
        )
        given, closer = Counter[str](), list[float]()
        for sample in work.dataset.samples(f"made and step = {quoted(work.name)}", images=False):
            if sample.origin.get("key") == key:
                given[records_in(sample.origin)["source"]] += 1
                closer.append(float(str(sample.columns.get("face_swap.to_source", 0))))
        drawn = len(plan.swaps) - done
        return {
            "made": counts.get("ok", 0),
            "failed": counts.get("failed", 0),
            **facts,
            "by_source": dict(sorted(given.items())),
            "likeness_to_source": round(float(np.mean(closer)), 3) if closer else None,
            "seconds_per_image": round((time.monotonic() - began) / drawn, 3) if drawn else None,
        }

    def _kept_plan(self, work: Work, records: Sequence[Consent]) -> Plan:
        """Return the plan; it is kept in the step's folder, so that a killed run goes on with the same one."""
        networks = self.networks
        path = work.folder / f"plan-{fingerprint(self, str(work.seed), *(each.digest for each in records))}.json"
        look = FindFaces(detector=networks.detector, threshold=networks.threshold)
        work.map(look, both(PARENTS, f"not ({CHILDREN})"), label=f"{work.name}: faces")
        if path.exists():
            return Plan.read(path.read_text())
        chooser = Chooser(work, records, self.categories, min_side=networks.min_side, per_image=self.per_image)
        plan = chooser.plan(self.count)
        work.folder.mkdir(parents=True, exist_ok=True)
        write_beside(work.folder / "left_out.jsonl", "".join(f"{line}\n" for line in plan.names))
        write_beside(path, plan.text())
        return plan


class Maker:
    """Makes the images of a plan.

    Args:
        work: The dataset that parents are read from.
        step: With its settings.
        records: Consents by name, all of which hold.
        key: Names the plan; every image keeps it.
    """

    def __init__(self, work: Work, step: FaceSwap, records: Mapping[str, Consent], key: str) -> None:
        self._work, self._step, self._records, self._key = work, step, records, key
        self._writer = step.files.writer()
        networks = step.networks
        self._told: dict[str, Json] = {
            "swapper": dict(networks.swapper.told()),
            "embedder": dict(networks.embedder.told()),
            "detector": models.digest(networks.detector) if networks.detector else "haar",
        }
        self._licence = licence_of_all(networks.swapper.licence, networks.embedder.licence)

    def make(self, swaps: Sequence[Swap]) -> Iterator[NewSample | Failed]:
        """Yield the images; networks are loaded only if there is any.

        Raises:
            InputError: A reference shows no face, or several.
            ModelError: A network is of another kind, or does not fit the other.
        """
        if not swaps:
            return
        networks = self._step.networks
        swapper, embedder = Swapper(networks.swapper), Embedder(networks.embedder)
        find = finder(networks.detector, networks.threshold)
        sources = {name: self._embedded(self._records[name], embedder, find) for name in {s.source for s in swaps}}
        for swap in swaps:
            [parent] = self._work.dataset.read([swap.parent])
            yield self._sample(swap, parent, swapper, embedder, sources[swap.source])

    @staticmethod
    def _embedded(record: Consent, embedder: Embedder, find: Find) -> Vector:
        """Return the mean embedding of a record's references."""
        found = []
        for each, data in zip(record.references, record.references_read(), strict=True):
            image = decode(data)
            faces = find(image)
            if len(faces) != 1:
                raise InputError(
                    f"consent {record.record}: {each.file} must show the face of its subject alone, {len(faces)} faces found"
                )
            found.append(embedder.embed(image, faces[0]))
        return unit(np.asarray(np.mean(found, 0), np.float32))

    def _sample(self, swap: Swap, parent: Sample, swapper: Swapper, embedder: Embedder, source: Vector) -> NewSample:
        image, face = parent.pixels(), face_of(swap.face)
        drawn, matrix = swapper.swap(image, face, source)
        keep = (*swap.others, *untouched(parent, face))
        child = paste(image, drawn, matrix, keep)
        now, before = embedder.embed(child, face), embedder.embed(image, face)
        told = [self._records[swap.source].told("source")]
        told += [self._records[swap.target].told("target")] if swap.target else []
        own = str(parent.origin.get("licence") or "")
        shown = [name for name in self._work.policy.names if name in parent.truth.categories]
        networks = self._step.networks
        origin: dict[str, Json] = {
            "source": f"{self._work.name}/{swap.number:06d}",
            "step": self._work.name,
            "key": self._key,
            "licence": licence_of_all(self._licence, self._records[swap.source].licence, own),
            "licence_of_model": self._licence,
            "licence_of_parent": own,
            "model": Path(networks.swapper.onnx).name,
            "model_digest": models.digest(networks.swapper.onnx),
            "method": METHOD,
            "category": shown[0] if shown else "",
            "networks": self._told,
            "consent": list(told),
            "parents": [parent.id],
            "face_xyxy": [round(v, 1) for v in face.box_xyxy],
            "refusals": version(),
            "digital_source_type": COMPOSITE,
        }
        columns: dict[str, Json] = {
            "face_swap.to_source": round(float(now @ source), 4),
            "face_swap.to_parent": round(float(now @ before), 4),
        }
        for name, value in ((STYLE, parent.columns.get(STYLE)), ("split", parent.split)):
            columns |= {name: value} if value else {}
        return NewSample(
            data=self._writer.write(child, origin),
            origin=origin,
            claims=carried(parent, self._work.name, self._work.policy.tag),
            columns=columns,
        )
