"""From people with references and pictures to a fusion and a threshold: half of them are taken for strangers, and then the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tilth.errors import InputError
from tilth.train.persons.cues import CUES, Seen
from tilth.train.persons.embedder import embed
from tilth.train.persons.fusion import UNKNOWN, Asked, Fusion, decided, learn
from tilth.train.persons.promise import Promise, promise
from tilth.train.persons.scores import Compared, Pictures, compare, none_seen, strangers

TURNS = 4  # each person is a stranger in half of them


@dataclass(frozen=True, kw_only=True)
class Group:
    """People with references and pictures to ask about.

    Args:
        names: Of the people.
        compared: All pictures beside all people.
        who: Whom each picture shows, by place in `names`.
    """

    names: Sequence[str]
    compared: Compared
    who: npt.NDArray[np.int64]

    def asked(self, known: npt.NDArray[np.int64]) -> Asked:
        """Return all pictures beside some of the people; everybody else is a stranger."""
        place = np.full(len(self.names), UNKNOWN)
        place[known] = np.arange(len(known))
        every = np.arange(len(self.who))
        return Asked(compared=self.compared.take(every, known), who=place[self.who])


def vectors_of(seen: Sequence[Seen], networks: Mapping[str, Any], width: int, device: str) -> Pictures:
    """Embed each cue of each picture."""
    found = none_seen(len(seen), width)
    for at, cue in enumerate(CUES):
        rows = [k for k, one in enumerate(seen) if cue in one.crops]
        if rows:
            found.vectors[cue][rows] = embed(networks[cue], [seen[k].crops[cue].image for k in rows], device)
            found.seen[rows, at] = True
            found.quality[rows, at] = [seen[k].crops[cue].quality for k in rows]
    return found


def group_of(pictures: Pictures, person: Sequence[str], role: Sequence[str]) -> Group:
    """Put people beside pictures.

    Raises:
        InputError: Somebody has no reference, or nobody is asked about.
    """
    names = sorted(set(person))
    own = {
        name: [k for k, (p, r) in enumerate(zip(person, role, strict=True)) if p == name and r == "reference"]
        for name in names
    }
    if missing := [name for name in names if not own[name]]:
        raise InputError(
            f"people: {missing[0]} has no picture with the role 'reference', and each person to calibrate with needs one"
        )
    queries = [k for k, r in enumerate(role) if r == "query"]
    if not queries:
        raise InputError("people: no picture has the role 'query', so nothing could be asked about")
    compared = compare(pictures.take(queries), [pictures.take(own[name]) for name in names])
    return Group(names=names, compared=compared, who=np.array([names.index(person[k]) for k in queries]))


def turns(group: Group, seed: int) -> list[Asked]:
    """Take half of the people for known, and then the other half, in several ways."""
    rng = np.random.default_rng((seed, 91))
    found = []
    for _ in range(TURNS // 2):
        order = rng.permutation(len(group.names))
        half = len(order) // 2
        found += [group.asked(np.sort(order[:half])), group.asked(np.sort(order[half:]))]
    return found


def learn_from(group: Group, seed: int, cues: tuple[str, ...] = CUES) -> Fusion:
    """Learn a fusion."""
    same = group.who[:, None] == np.arange(len(group.names))[None]
    return learn(turns(group, seed), strangers(group.compared, same), cues)


def promised(group: Group, fusion: Fusion, precision: float, seed: int) -> Promise:
    """Choose the threshold."""
    scores, right, known, people = [], [], [], []
    for one in turns(group, seed):
        best, chance = decided(fusion.chances(one.compared))
        scores.append(chance)
        right.append(best == one.who)
        known.append(one.who != UNKNOWN)
        people += [group.names[k] for k in group.who]
    return promise(np.concatenate(scores), np.concatenate(right), np.concatenate(known), people, precision, seed)
