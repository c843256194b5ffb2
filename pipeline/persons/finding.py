"""Look through a dataset for people on a register: what is found waits for a person, and decides nothing."""

from typing import Any

from tilth.claims import Json
from tilth.data.dataset import Dataset
from tilth.errors import InputError
from tilth.events import Events
from tilth.pipeline.persons.register import Register
from tilth.train.persons.album import seen_in
from tilth.train.persons.calibrating import vectors_of
from tilth.train.persons.cues import CUES
from tilth.train.persons.embedder import load
from tilth.train.persons.fusion import Fusion, decided
from tilth.train.persons.scores import Strangers, compare


def fusion_of(told: dict[str, Any]) -> Fusion:
    """Read a fusion from what `train.person` leaves."""
    rows = {name: tuple(map(tuple, told[name])) for name in ("slope", "height")}
    counted = Strangers(**{name: tuple(values) for name, values in told["strangers"].items()})
    return Fusion(strangers=counted, slope=rows["slope"], height=rows["height"], limit=told["limit"], bias=told["bias"])


def find(
    register: Register, dataset: Dataset, where: str, time: str, events: Events, device: str = "cpu"
) -> dict[str, Json]:
    """Look through the samples that a condition holds for, and let what is found wait.

    Raises:
        InputError: The networks promise nothing, nobody is enrolled, or the list is longer than the one that the promise is about.
    """
    networks, about = load(register.model, device)
    told = about["promise"]
    if told["threshold"] is None:
        raise InputError(f"{register.model}: no precision is promised, so nobody can be recognised: {told['why']}")
    enrolled, left_out = register.enrolled()
    if not enrolled:
        why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise InputError(f"{register.root}: nobody to look for{f' ({why})' if why else ''}")
    if len(enrolled) > about["list_length"]:
        raise InputError(
            f"{register.root}: {len(enrolled)} records, and {told['asked']:.0%} precision is promised of lists of {about['list_length']}; "
            "train with more calibration people, or keep several registers"
        )
    fusion, references = fusion_of(about["fusion"]), [one.references for one in enrolled]
    rows: list[dict[str, Any]] = []
    images = people = unboxed = 0
    with events.progress("person find", dataset.count(where)) as advance:
        for batch in dataset.scan(where):
            found = [seen_in(sample, int(about["side"])) for sample in batch]
            images, unboxed = images + len(batch), unboxed + sum(not one for one in found)
            each = [
                (sample.id, k, one) for sample, some in zip(batch, found, strict=True) for k, one in enumerate(some)
            ]
            people += len(each)
            advance(len(batch))
            if not each:
                continue
            compared = compare(
                vectors_of([one for _, _, one in each], networks, int(about["width"]), device), references
            )
            evidence = fusion.evidence(compared)
            for at, (best, chance) in enumerate(zip(*decided(fusion.chances(compared)), strict=True)):
                if chance >= told["threshold"]:
                    id_, number, one = each[at]
                    cues = {
                        cue: round(float(evidence[at, best, c]), 2)
                        for c, cue in enumerate(CUES)
                        if compared.both[at, best, c]
                    }
                    boxes = {part: list(box) for part, box in one.boxes.items()}
                    rows.append({"time": time, "dataset": str(dataset.root), "id": id_, "person": number, "record": enrolled[best].record,
                                 "chance": round(float(chance), 4), "evidence": cues, "boxes": boxes})  # fmt: skip
    new = register.queue(rows)
    register.note(
        "find", dataset=str(dataset.root), images=images, matches=len(rows), records=[one.record for one in enrolled]
    )
    return {
        "images": images, "people": people, "images_without_boxes": unboxed, "looked_for": len(enrolled), "not_looked_for": left_out,
        "matches": len(rows), "new_in_queue": new, "unknown": people - len(rows),
    }  # fmt: skip
