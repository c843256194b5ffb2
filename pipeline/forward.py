"""What a dataset that outlives its runs keeps of many nights: few tables, and the versions of the last nights.

Each night some steps leave tables of their own, as a model that was trained that night judges all images anew. After a night that came to
its end, what no step of it used is carried forward into few tables, and the versions of nights long past are let go of.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from tilth.annotate.review.pull import PEOPLE_SAY
from tilth.data.carrying import carry, let_go
from tilth.data.dataset import Dataset
from tilth.data.files import write_beside
from tilth.engine.work import Step
from tilth.pipeline.steps.retraining import Promote
from tilth.runtime.bundles.bundle import BUNDLES, MANIFEST

MOST_TABLES = 24  # that no step of the last night used; as many are put together at a time
KEPT_NIGHTS = 10  # whose versions can be gone back to, as a champion keeps so many bundles
ENDS = "nights.json"  # beside the dataset: its version at the end of each of these


def forget(
    dataset: Dataset, night: str, used: Mapping[str, Collection[str]], steps: Mapping[str, Step], time: str
) -> tuple[int, int]:
    """Carry forward what is old, when there is enough of it.

    Args:
        dataset: Open at its newest version, and held.
        night: Which run has come to its end.
        used: Names of the tables that each of its steps has used. Tables of other steps, of other recipes and single commands, stay.
        steps: Of the recipe. Those that decide anew have no old tables; what the bundles of a champion were made from is kept.
        time: Of the new version.

    Returns:
        How many tables were put together, and how many versions let go of.
    """
    decide = {name for name, step in steps.items() if getattr(step, "decides", False)}
    now = {name for names in used.values() for name in names}
    old = {ref.name for ref in dataset.at.tables if ref.step in used and ref.step not in decide and ref.name not in now}
    old = {name for name in old if PEOPLE_SAY not in name}  # answers grow in place, whenever people give them
    old = {ref.name for ref in dataset.at.tables if ref.name in old and not ref.carried}
    carried = carry(dataset, old, time) if len(old) >= MOST_TABLES else 0
    ends = _ends(dataset.root)
    ends[night] = dataset.at.number
    ends = dict(sorted(ends.items(), key=lambda end: end[1])[-KEPT_NIGHTS:])
    write_beside(dataset.root / ENDS, json.dumps(ends))
    return carried, let_go(dataset, min(ends.values()), _made_from(steps)) if len(ends) == KEPT_NIGHTS else 0


def _ends(root: Path) -> dict[str, int]:
    path = root / ENDS
    return {str(night): int(number) for night, number in json.loads(path.read_text()).items()} if path.exists() else {}


def _made_from(steps: Mapping[str, Step]) -> set[int]:
    """Return the versions that bundles were made from which can be put into use again; `drift` compares with them."""
    champions = (step.champion for step in steps.values() if isinstance(step, Promote))
    made = (json.loads(path.read_text()) for folder in champions for path in (folder / BUNDLES).glob(f"*/{MANIFEST}"))
    return {int(one["dataset_version"]) for one in made if one.get("dataset_version")}
