"""What a dataset says of each sample, by its tables and by its view; and steps that say anything."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tilth.claims import Claim, Json, resolve
from tilth.data.dataset import Dataset
from tilth.data.table import read_claim, read_columns
from tilth.samples import Result

BOX = (1.0, 1.0, 8.0, 8.0)


def told_by_tables(dataset: Dataset) -> dict[str, tuple[object, ...]]:
    """What the tables of a version say of each sample, read one by one: the reference."""
    ids: list[str] = []
    for ref in dataset.at.tables:
        if ref.adds:
            for batch in dataset.table(ref.name, ref.lance_version).ids(where="status = 'ok'"):
                ids += [i for i in batch if i not in ids]
    told: dict[str, tuple[object, ...]] = {}
    for id_ in ids:
        claims: list[Claim] = []
        columns: dict[str, Json] = {}
        drops: list[tuple[str, str]] = []
        for ref in dataset.at.tables:
            table = dataset.table(ref.name, ref.lance_version)
            row = table.get([id_], ["status", "reason", "claims", "columns", "nested"]).get(id_)
            if row:
                claims += [read_claim(claim) for claim in row["claims"]]  # type: ignore[attr-defined]
                columns |= {name: value for name, value in read_columns(row).items() if value is not None}
                drops += [(ref.step, str(row["reason"]))] if row["status"] == "dropped" else []
        told[id_] = (tuple(claims), columns, tuple(drops), resolve(claims))
    return told


def told_by_view(dataset: Dataset) -> dict[str, tuple[object, ...]]:
    samples = dataset.samples(images=False, dropped=True)
    # read to the end, as the view may be deleted next
    return {
        s.id: (tuple(s.claims), dict(s.columns), s.drops, replace(s.truth, labels=tuple(s.truth.labels)))
        for s in samples
    }


def drawn(rng: np.random.Generator, ids: Sequence[str], share: float = 0.6) -> dict[str, Result]:
    """Anything that a step may say."""
    found: dict[str, Result] = {}
    for id_ in ids:
        if rng.random() > share:
            continue
        source = str(rng.choice(["human:ann", "human:bob", "model:a@1", "model:b@2", "import:x"]))
        kind, asked = rng.integers(5), tuple(c for c in ("knife", "dice", "pill") if rng.random() < 0.5)
        claims = (Claim(says="empty", source=source, asked=asked, policy="p@1"),) if kind == 0 else ()
        if kind == 2 and source.startswith("human"):
            claims = (Claim(says=str(rng.choice(["reject", "withdraw", "escalate"])), source=source),)  # type: ignore[arg-type]
        if kind == 1:
            claims = (
                Claim(
                    category=str(rng.choice(["knife", "dice"])),
                    box_xyxy=BOX,
                    score=0.5,
                    source=source,
                    evidence={"round": int(rng.integers(9))},
                    asked=asked,
                    policy="p@2",
                ),
            )
        values: list[Json] = [1.5, 3, True, "it's", ["a", 1], {"k": 2}, None]
        columns = {str(rng.choice(["a.x", "b", "c-d.e"])) + str(n): values[n] for n in rng.choice(7, 3, replace=False)}
        found[id_] = Result(claims=claims, columns=columns, dropped="too plain" if rng.random() < 0.1 else "")
    return found
