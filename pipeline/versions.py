"""What changed between two versions of a dataset."""

from collections.abc import Iterator

from tilth.claims import Json, Truth
from tilth.data.dataset import Dataset
from tilth.data.table import BATCH_ROWS
from tilth.samples import Sample


def _brief(truth: Truth) -> dict[str, Json]:
    boxes = sorted(f"{c.category} {[round(v, 1) for v in c.box_xyxy] if c.box_xyxy else 'image'}" for c in truth.labels)
    return {"state": truth.state.value, "labels": boxes}


def _read(dataset: Dataset, ids: list[str]) -> dict[str, Sample]:
    return {s.id: s for s in dataset.read(ids, images=False)}


def diff_versions(dataset: Dataset, before: int | str, after: int | str | None = None) -> Iterator[dict[str, Json]]:
    """Yield one row for every sample that was added, removed, dropped, restored or labelled anew.

    Only two batches of samples are held at a time; membership is looked up in the tables.

    Raises:
        InputError: There is no such version or tag.
    """
    old, new = dataset.checkout(before), dataset.checkout(after) if after else Dataset(dataset.root)
    for ids in new.ids(batch_rows=BATCH_ROWS):
        was_there = old.contains(ids)
        now = _read(new, ids)
        then = _read(old, [i for i in ids if i in was_there])
        for id_, sample in now.items():
            if id_ not in then:
                yield {"id": id_, "change": "added", "now": _brief(sample.truth)}
            elif bool(sample.drops) != bool(then[id_].drops):
                reasons = [f"{step}: {reason}" for step, reason in sample.drops or then[id_].drops]
                yield {"id": id_, "change": "dropped" if sample.drops else "restored", "why": reasons}
            elif (told := _brief(sample.truth)) != (before_ := _brief(then[id_].truth)):
                yield {"id": id_, "change": "labelled", "before": before_, "now": told}
    for ids in old.ids(batch_rows=BATCH_ROWS):
        still = new.contains(ids)
        for id_ in ids:
            if id_ not in still:
                yield {"id": id_, "change": "removed"}
