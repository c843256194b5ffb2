"""Train what recognises people: a network a cue, how the cues are put together, and from which chance on somebody counts as recognised."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tilth import models
from tilth.engine.steps import Facts, group, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.train.persons.album import Line, largest, read_people
from tilth.train.persons.calibrating import group_of, learn_from, promised, vectors_of
from tilth.train.persons.cues import CUES, Seen
from tilth.train.persons.embedder import SMALL, Backbone, fresh, load, save
from tilth.train.persons.learning import Lessons, teach


@group
class Backbones:
    """What the network of each cue begins as.

    Args:
        face: Model and licences of the face's.
        body: Of the body's.
        clothing: Of the clothing's.
        scene: Of the scene's.
    """

    face: Backbone = Backbone()
    body: Backbone = Backbone()
    clothing: Backbone = Backbone()
    scene: Backbone = Backbone()


@step
class TrainPerson:
    """Learn to recognise people by face, body, clothing and scene together, from boxes of the dataset and a file that says who is who.

    Args:
        people: JSON lines `{"id", "person", "album", "split", "role"}`: of split `train` to learn from; of split `calibration`, with roles
            `reference` and `query`, to learn fusion and threshold from. Other samples are unlabelled: of these networks learn to see.
        unlabelled: Condition for these; empty for none.
        backbones: What each network begins as, with its licences.
        lessons: How much is learned.
        side: Of the crops, in pixels.
        width: Numbers in a vector.
        precision: Share of recognised pictures that must be right.
    """

    people: Path
    unlabelled: str = "split != 'test'"
    backbones: Backbones = Backbones()
    lessons: Lessons = Lessons()
    side: int = 32
    width: int = 64
    precision: float = 0.98

    def __post_init__(self) -> None:
        """Check the settings."""
        if not 0.5 <= self.precision < 1:
            raise ValueError(f"precision must lie in [0.5, 1), got {self.precision}")
        if self.side < 16 or self.width < 2:
            raise ValueError(f"side must be at least 16 and width at least 2, got {self.side} and {self.width}")

    def models(self) -> tuple[str, ...]:
        """Name the backbones."""
        named = (getattr(self.backbones, cue).model for cue in CUES)
        return tuple(dict.fromkeys(name for name in named if name != SMALL))

    def inputs(self) -> tuple[Path, ...]:
        """Name the people file."""
        return (self.people,)

    def run(self, work: Work) -> Facts:
        """Train, or go on from the last checkpoint, and publish the networks under the step's name."""
        done = work.folder / "model"
        if done.is_dir():  # a run that was killed between saving and reporting
            work.publish(work.name, done)
            return {"model": str(done), **load(done)[1]["trained"]}
        lines = read_people(self.people)
        for split in ("train", "calibration"):
            if len({line.person for line in lines if line.split == split}) < 2:
                raise InputError(f"{self.people}: needs at least two people of the split {split!r}")
        own = {line.id for line in lines}
        there = {id_ for some in work.dataset.ids() for id_ in some}
        if missing := sorted(own - there):
            raise InputError(
                f"{self.people}: {len(missing)} pictures are not in the dataset, such as {missing[0][:12]}…; import them first"
            )
        kept_out = {line.id for line in lines if line.split != "train"}
        some = work.dataset.ids(self.unlabelled) if self.unlabelled else ()
        others = [id_ for batch in some for id_ in batch if id_ not in own]
        learned = [line for line in lines if line.split == "train"]
        ids = [line.id for line in learned] + others
        seen = largest(work.dataset, ids, self.side)
        device = models.device(work.device)
        networks, told = self.teach_all(
            work, seen, [line.person for line in learned] + [""] * len(others), device
        )  # fmt: skip
        facts = {
            "people": len({line.person for line in learned}),
            "pictures": len(learned),
            "unlabelled": len(others),
            "kept_out": len(kept_out),
        }
        about = {
            "side": self.side, "width": self.width, "backbones": {cue: asdict(getattr(self.backbones, cue)) for cue in CUES},
            **self._calibrated(work, [line for line in lines if line.split == "calibration"], networks, device),
        }  # fmt: skip
        about["trained"] = {
            **facts,
            "losses": told,
            "promise": about["promise"],
            "calibration_people": about["list_length"] * 2,
        }
        save(networks, about, done)
        work.publish(work.name, done)
        return {"model": str(done), **about["trained"]}

    def teach_all(
        self, work: Work, seen: Sequence[Seen], who: Sequence[str], device: str
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Teach the network of each cue; return them, and their losses."""
        networks, told = {}, {}
        total = (self.lessons.pretrain + self.lessons.steps) * len(CUES)
        with work.events.progress(f"{work.name}: train", total, unit="steps") as advance:
            for number, cue in enumerate(CUES):
                own = [k for k, one in enumerate(seen) if cue in one.crops]
                if len(own) < 2:
                    raise InputError(
                        f"{work.name}: no {cue} is boxed in what there is to learn from; run ground or a review first"
                    )
                crops = np.stack([seen[k].crops[cue].image for k in own])
                network = fresh(getattr(self.backbones, cue), self.side, self.width, work.seed)
                told[cue] = teach(
                    network, cue, crops, [who[k] for k in own], self.lessons, work.folder / "checkpoints", seed=work.seed * 7 + number,
                    device=device, advance=advance,
                )  # fmt: skip
                networks[cue] = network
        return networks, told

    def _calibrated(self, work: Work, lines: Sequence[Line], networks: dict[str, Any], device: str) -> dict[str, Any]:
        """Learn fusion and threshold from people whom no network has seen."""
        seen = largest(work.dataset, [line.id for line in lines], self.side)
        pictures = vectors_of(seen, networks, self.width, device)
        people = group_of(pictures, [line.person for line in lines], [line.role for line in lines])
        fusion = learn_from(people, work.seed)
        told = promised(people, fusion, self.precision, work.seed)
        return {"fusion": asdict(fusion), "promise": asdict(told), "list_length": len(people.names) // 2}
