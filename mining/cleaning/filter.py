"""Drop samples by rules; a rule is a condition in the language in which a dataset is asked, and is never executed as code."""

import re
from typing import ClassVar

from tilth.claims import Json
from tilth.data.where import check_named, check_whole, named
from tilth.engine.apply import Apply
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.samples import IMAGE, SOUND, TEXT, Result

_COMPARES = re.compile(r"[<>=]|\b(?:is|in|like|between)\b|\w\(", re.IGNORECASE)


def check_rule(rule: str) -> None:
    """Refuse what cannot be a condition.

    Raises:
        ValueError: Nothing is compared in it.
    """
    try:
        check_whole(rule)
        whole = bool(_COMPARES.search(rule)) and "=>" not in rule
    except InputError:
        whole = False
    if not whole:
        raise ValueError(f"a rule is a condition, as in 'quality.sharpness >= 20'; got {rule!r}")


def reason(rule: str, measured: dict[str, Json]) -> str:
    """Say why a sample goes.

    >>> reason("quality.sharpness >= 20", {"quality.sharpness": 12.5})
    'quality.sharpness is 12.5, wanted >= 20'
    """
    told = ", ".join(f"{k} is {v:g}" if isinstance(v, float | int) else f"{k} is {v}" for k, v in measured.items())
    wanted = rule.strip()
    for name in list(measured)[:1]:
        wanted = wanted.removeprefix(name).strip() if len(measured) == 1 else wanted
    return f"{told}, wanted {wanted}" if told else f"wanted {wanted}"


@step
class Filter:
    """Drop the samples that break a rule; a sample that lacks what a rule asks for stays.

    Args:
        rules: What must be true of a sample, as in `quality.sharpness >= 20` or `array_has(categories, 'knife')`; the first
            that is broken is the reason.
    """

    decides: ClassVar[bool] = True  # anew each time where the dataset outlives runs
    media: ClassVar[tuple[str, ...]] = (IMAGE, TEXT, SOUND)

    rules: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check the rules."""
        if not self.rules:
            raise ValueError("rules must hold at least one rule, as in 'quality.sharpness >= 20'")
        for rule in self.rules:
            check_rule(rule)

    def run(self, work: Work) -> Facts:
        """Apply the rules.

        Raises:
            InputError: No sample has a column that a rule names, or a rule is no condition.
        """
        dataset = work.dataset
        samples = dataset.count()
        broken: dict[str, Json] = {}
        unmeasured: dict[str, Json] = {}
        results: dict[str, Result] = {}
        for rule in self.rules:
            names = named(rule)
            if samples:
                check_named(rule, dataset.view.columns.names(), f"step {work.name}: rule")
            cells = list(dataset.cells("id", *names, where=f"not ({rule})"))
            broken[rule] = len(cells)
            unmeasured |= {name: dataset.count(f"`{name}` is null") for name in names}
            for id_, *values in cells:
                results.setdefault(str(id_), Result(dropped=reason(rule, dict(zip(names, values, strict=True)))))
        Apply.to(work, results)
        return {"ok": samples - len(results), "dropped": len(results), "broken": broken, "unmeasured": unmeasured}
