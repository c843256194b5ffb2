"""The licence that an image leaves under: its own and those of all that it was made of."""

import json
from collections.abc import Callable, Mapping
from functools import lru_cache

from tilth.claims import Json
from tilth.data.dataset import Dataset
from tilth.samples import UNKNOWN_LICENCE, join_licences


def licence_of(origin: Mapping[str, Json], find: Callable[[str], Mapping[str, Json] | None]) -> str:
    """Return the licence that binds an image: its own and, of one that was made of others, theirs, which go on binding.

    Args:
        origin: Of the image.
        find: Returns the origin of another by its id; None when it is not there.
    """
    told, waiting, seen = [""], [origin], set[str]()
    unknown = False
    while waiting:
        now = waiting.pop()
        told += [str(now.get("licence") or ""), said := str(now.get("licence_of_parent") or "")]
        parents = now.get("parents")
        for id_ in {str(each) for each in parents} - seen if isinstance(parents, list | tuple) else ():
            seen.add(id_)
            parent = find(id_)
            unknown |= not said and not (parent and parent.get("licence"))
            waiting += [parent] if parent else []
    return join_licences(*told, *([UNKNOWN_LICENCE] if unknown else []))


def origins(dataset: Dataset) -> Callable[[str], Mapping[str, Json] | None]:
    """Return what finds the origin of an image of a dataset by its id; the last few thousand are kept."""

    @lru_cache(maxsize=4096)
    def find(id_: str) -> Mapping[str, Json] | None:
        row = dataset.pool.get([id_], ["origin"]).get(id_)
        return dict(json.loads(str(row["origin"]))) if row else None

    return find
