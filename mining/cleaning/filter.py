"""Drop samples by rules over measured columns; a rule is read, never executed."""

import difflib
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tilth.claims import Json
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.samples import Result, Sample

OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_RULE = re.compile(r"([A-Za-z]\w*(?:\.\w+)+)\s*(>=|<=|==|!=|>|<)\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What must be true of a column for a sample to stay."""

    column: str
    sign: str
    value: float

    def refuses(self, sample: Sample) -> str:
        """Return why a sample must go; empty when it may stay, or was never measured."""
        found = number(sample.columns.get(self.column))
        if found is None or OPERATORS[self.sign](found, self.value):
            return ""
        return f"{self.column} is {found:g}, wanted {self.sign} {self.value:g}"


def number(value: Json) -> float | None:
    """Return the number in a column; None when it holds none."""
    return float(value) if isinstance(value, int | float) else None


def parse(rule: str) -> Rule:
    """Read a rule such as `quality.sharpness >= 20`.

    Raises:
        ValueError: It is not a rule.

    >>> parse("quality.sharpness >= 20")
    Rule(column='quality.sharpness', sign='>=', value=20.0)
    """
    match = _RULE.fullmatch(rule.strip())
    if match is None:
        raise ValueError(
            f"a rule is a column, one of {' '.join(OPERATORS)}, and a number, "
            f"as in 'quality.sharpness >= 20'; got {rule!r}"
        )
    return Rule(column=match[1], sign=match[2], value=float(match[3]))


@step
class Filter:
    """Drop the samples that break a rule; a sample that lacks a rule's column stays.

    Args:
        rules: What must be true of a sample, as in `quality.sharpness >= 20`.
        batch_size: Samples per call.
    """

    rules: tuple[str, ...]
    batch_size: int = 256

    def __post_init__(self) -> None:
        """Check the rules."""
        if not self.rules:
            raise ValueError("rules must hold at least one rule, as in 'quality.sharpness >= 20'")
        for rule in self.rules:
            parse(rule)

    def models(self) -> tuple[str, ...]:
        """Name none."""
        return ()

    def load(self) -> Callable[[Sequence[Sample]], list[Result]]:
        """Return the function that applies the rules; the first that is broken is the reason."""
        rules = [parse(rule) for rule in self.rules]

        def judge(samples: Sequence[Sample]) -> list[Result]:
            return [Result(dropped=next(filter(None, (rule.refuses(s) for rule in rules)), "")) for s in samples]

        return judge

    def run(self, work: Work) -> Facts:
        """Apply the rules.

        Raises:
            InputError: No sample has a column that a rule names.
        """
        rules = [parse(rule) for rule in self.rules]
        measured = {rule.column: 0 for rule in rules}
        columns: set[str] = set()
        broken = dict.fromkeys(self.rules, 0)
        samples = 0
        for sample in work.dataset.samples(images=False):
            samples += 1
            columns |= sample.columns.keys()
            for text, rule in zip(self.rules, rules, strict=True):
                broken[text] += bool(rule.refuses(sample))
            for column in measured:
                measured[column] += number(sample.columns.get(column)) is not None
        for column, count in measured.items():
            if samples and not count:
                near = difflib.get_close_matches(column, columns, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(columns)) or 'none'}"
                raise InputError(f"step {work.name}: no sample has a number in a column {column!r}; {hint}")
        counts = work.map(self, on="claims")
        unmeasured = {column: samples - count for column, count in measured.items()}
        kept = {name: counts.get(name, 0) for name in ("ok", "dropped")}
        return {**kept, "broken": broken, "unmeasured": unmeasured}
