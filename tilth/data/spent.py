"""Which of the things that models said nothing depends on any more, so that a dataset that outlives many nights can let go of them.

What people, imported files and generators said is never among them. What models said stays as long as it counts, or as anybody who leaves
out one of them, as `relabel` leaves out the students before, would find that it counts.
"""

from collections.abc import Collection, Sequence
from typing import TypeAlias

from tilth.claims import Claim, asked_in, resolve, rounds, standing

Turn: TypeAlias = tuple[int, str]
"""What a source says in one row of one table: the number of the row, and the source."""


def spent(rows: Sequence[Sequence[Claim]], among: Collection[int] | None = None) -> set[Turn]:
    """Return what can be left out, and whatever is said later is understood as if it had not been.

    Args:
        rows: Claims about one sample, by the table rows in which they came, oldest first.
        among: Numbers of the rows from which anything may be left out; all when None.

    >>> say = {"category": "knife", "asked": ("knife",)}
    >>> rows = [[Claim(source="model:a@1", evidence={"round": night}, **say)] for night in range(3)]
    >>> sorted(spent(rows))
    [(0, 'model:a@1'), (1, 'model:a@1')]
    """
    turns: dict[str, list[Turn]] = {}
    last: dict[str, Claim] = {}
    for number, row in enumerate(rows):
        for claim in row:
            if claim.kind == "model":
                turn = (number, claim.source)
                mine = turns.setdefault(claim.source, [])
                mine += [turn] if mine[-1:] != [turn] else []
                last[claim.source] = claim
    older = (mine[: None if last[source].says == "withdraw" else -1] for source, mine in turns.items())
    old = sorted(turn for mine in older for turn in mine if among is None or turn[0] in among)
    if not old:
        return set()
    known = _known(rows, ())
    if _known(rows, old) == known:
        return set(old)
    gone = set[Turn]()
    for turn in old:
        if _known(rows, gone | {turn}) == known:
            gone.add(turn)
    return gone


def _known(rows: Sequence[Sequence[Claim]], without: Collection[Turn]) -> object:
    """Return all that a reader can find out, now or after more is said, but for models that took back all that they said."""
    claims = [claim for n, row in enumerate(rows) for claim in row if (n, claim.source) not in without]
    families = sorted({_family(claim) for row in rows for claim in row if claim.kind == "model"})
    truth = resolve(claims)
    return (
        (truth.state, tuple(truth.labels), dict(truth.looked), truth.silent),
        {claim.kind for claim in claims},
        next((claim.policy for claim in reversed(claims) if claim.policy), ""),
        [{*asked_in(c for c in claims if _family(c) == name)} for name in families],
        *(_heard([c for c in claims if _family(c) != name]) for name in ("", *families)),
    )


def _family(claim: Claim) -> str:
    """Return a source whatever its weights."""
    return claim.source.partition("@")[0]


def _heard(claims: Sequence[Claim]) -> dict[str, tuple[list[Claim], list[Claim]]]:
    """Return what each source says, and what of it in the round at hand, but for models that took all back."""
    now = {source: said for source, (_, said) in rounds(claims).items()}
    return {source: (said, now[source]) for source, said in standing(claims).items() if not _silenced(now[source])}


def _silenced(now: Sequence[Claim]) -> bool:
    return bool(now) and all(claim.kind == "model" and claim.says == "withdraw" for claim in now)
