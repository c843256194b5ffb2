"""Recipes: a YAML list of steps, checked as a whole before anything runs."""

import difflib
import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tilth.claims import Json
from tilth.engine.steps import NAME, references
from tilth.engine.work import Step
from tilth.errors import InputError, RecipeError
from tilth.policy import Policy, load_policy
from tilth.yaml_text import Place, describe, line_of, load_yaml, spell

Table = Mapping[str, str]
"""Step name -> `module:Class`; imported only when a recipe names it."""

KEYS = ("recipe", "policy", "dataset", "seed", "max_fail_rate", "track", "variables", "steps")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A checked recipe: `steps` maps the name of each step in this recipe to the step, in order.

    `dataset` is a dataset that outlives runs; None where each run has its own. `track` names the tracker that numbers are sent to.
    """

    name: str
    path: Path
    policy: Policy
    policy_path: Path
    seed: int
    max_fail_rate: float
    steps: Mapping[str, Step]
    document: Mapping[str, Json]
    variables: Mapping[str, str]
    dataset: Path | None = None
    track: str = ""


def load_class(table: Table, name: str) -> type:
    """Import the class of a step."""
    module, _, attribute = table[name].partition(":")
    cls: type = getattr(importlib.import_module(module), attribute)
    return cls


class _Reader:
    """Reads one recipe file and collects its mistakes."""

    def __init__(self, path: Path, table: Table, variables: Mapping[str, str]) -> None:
        self.path, self.table = path, table
        self.mistakes: list[str] = []
        document, self.lines = load_yaml(path)
        if not isinstance(document, dict):
            raise RecipeError(f"{path}:1: a recipe is a mapping with the keys {', '.join(KEYS)}")
        for key in document:
            if key not in KEYS:
                self.wrong((key,), f"no such key{_near(key, KEYS)}")
        self.variables = self._variables(document.get("variables") or {}, variables)
        self.document: dict[str, Any] = {k: self._fill(v, (k,)) for k, v in document.items() if k != "variables"}

    def wrong(self, place: Place, message: str) -> None:
        """Note a mistake."""
        self.mistakes.append(f"{self.path}:{line_of(place, self.lines)}: {spell(place)}: {message}")

    def _variables(self, declared: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
        for name in given:
            if name not in declared:
                self.mistakes.append(f"--set {name}: {self.path} has no such variable{_near(name, tuple(declared))}")
        values = {name: given.get(name, value) for name, value in declared.items()}
        for name, value in values.items():
            if value is None:
                self.wrong(("variables", name), f"needs a value; give it with --set {name}=…")
        return {name: str(value) for name, value in values.items() if value is not None}

    def _fill(self, value: Any, place: Place) -> Any:
        if isinstance(value, dict):
            return {k: self._fill(v, (*place, k)) for k, v in value.items()}
        if isinstance(value, list):
            return [self._fill(v, (*place, i)) for i, v in enumerate(value)]
        if isinstance(value, str):
            for name in re.findall(r"\$\{(\w+)\}", value):
                if name in self.variables:
                    value = value.replace("${" + name + "}", self.variables[name])
                elif f"{self.path}" and name not in (m.split("variables.")[-1].split(":")[0] for m in self.mistakes):
                    self.wrong(place, f"no variable {name!r}{_near(name, tuple(self.variables))}")
        return value

    def steps(self) -> dict[str, Step]:
        """Build every step."""
        steps: dict[str, Step] = {}
        named: set[str] = set()
        left: set[str] = set()
        entries = self.document.get("steps")
        if not isinstance(entries, list) or not entries:
            self.wrong(("steps",), "needs a list with at least one step")
            return steps
        for place, entry in self._unrolled(entries):
            names = [k for k in entry if k != "as"] if isinstance(entry, dict) else []
            if len(names) != 1:
                self.wrong(place, "a step is one name with its settings, as in '- dedup: {max_distance: 31}'")
                continue
            name = names[0]
            label = str(entry.get("as", name))
            if not NAME.fullmatch(label):
                self.wrong((*place, "as"), f"a name is letters, digits, '.', '-' and '_', got {label!r}")
            if label in named:
                self.wrong(place, f"two steps are called {label!r}; give one another name with 'as: …'")
            if (built := self._step((*place, name), name, entry[name])) is not None:
                steps[label] = built
                self._refers((*place, name), built, sorted(named | left))
                left |= set(getattr(built, "leaves", ()))
            named.add(label)
        return steps

    def _refers(self, place: Place, step: Step, before: Sequence[str]) -> None:
        """Miss now what a step would miss hours later: the earlier step that one of its settings names."""
        for key, value in references(step):
            if not any(value == n or value.startswith(f"{n}.") for n in before):
                self.wrong((*place, *key), f"no step before this one is called {value!r}{_near(value, tuple(before))}")

    def _unrolled(self, entries: list[Any]) -> Iterator[tuple[Place, Any]]:
        """Yield every entry, those of `rounds` once for each round; afterwards their names mean the last round's."""
        last: dict[str, str] = {}
        for index, entry in enumerate(entries):
            place: Place = ("steps", index)
            if not (isinstance(entry, dict) and "rounds" in entry):
                yield place, _called(entry, last)
                continue
            rounds, inner = entry["rounds"], entry.get("steps")
            if (
                not isinstance(rounds, int)
                or rounds < 1
                or not isinstance(inner, list)
                or set(entry) != {"rounds", "steps"}
            ):
                self.wrong(place, "rounds are a number and their steps, as in '- {rounds: 3, steps: [...]}'")
                continue
            names = [_name(one) for one in inner]
            for number in range(1, rounds + 1):
                for at, one in enumerate(inner):
                    # a step that comes later in a round is, until then, the one of the round before
                    now = {
                        n: f"{n}.{number}" if names.index(n) < at else f"{n}.{number - 1}" if number > 1 else ""
                        for n in names
                    }
                    one = _called(one, last | now)
                    yield (
                        (*place, "steps", at),
                        {**one, "as": f"{names[at]}.{number}"} if isinstance(one, dict) else one,
                    )
            last |= {name: f"{name}.{rounds}" for name in names}

    def _step(self, place: Place, name: str, settings: Any) -> Step | None:
        if name not in self.table:
            self.wrong(place, f"no such step{_near(name, tuple(self.table))}")
            return None
        cls = load_class(self.table, name)
        try:
            step: Step = TypeAdapter(cls).validate_python(settings or {})
            return step
        except ValidationError as error:
            self.mistakes += describe(error, self.path, self.lines, place, cls)
        return None


def _name(entry: Any) -> str:
    """Return what a step is called."""
    if isinstance(entry, dict):
        return str(entry.get("as") or next((key for key in entry if key != "as"), ""))
    return str(entry)


def _called(entry: Any, names: Mapping[str, str]) -> Any:
    """Return an entry whose settings call steps of rounds by the round that is meant."""

    def new(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: new(one) for key, one in value.items()}
        if isinstance(value, list):
            return [new(one) for one in value]
        return names.get(value, value) if isinstance(value, str) else value

    if isinstance(entry, str):
        return {entry: {}}
    return (
        {key: value if key == "as" else new(value) for key, value in entry.items()}
        if isinstance(entry, dict)
        else entry
    )


def _near(name: object, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known)) or 'none'}"


def load_recipe(
    path: Path, table: Table, variables: Mapping[str, str] | None = None, policy_path: Path | None = None
) -> Recipe:
    """Read a recipe and build its steps.

    Args:
        path: The YAML file.
        table: The steps there are.
        variables: Values for the recipe's `variables`.
        policy_path: Policy file instead of the one that the recipe names.

    Raises:
        RecipeError: Lists every mistake, with its line and the nearest valid name.
        InputError: A file is absent, or is not YAML.
    """
    reader = _Reader(path, table, variables or {})
    document = reader.document
    steps = reader.steps()
    policy: Policy | None = None
    known = policy_path is not None or "policy" in document
    policy_path = policy_path or path.parent / str(document.get("policy", ""))
    if not known:
        reader.wrong((), "needs a policy, as in 'policy: ../policies/starter.yaml'")
    else:
        try:
            policy = load_policy(policy_path)
        except InputError as error:
            reader.mistakes.append(str(error))
    numbers = {}
    for key, kind, default in (("seed", int, 0), ("max_fail_rate", float, 0.2)):
        try:
            numbers[key] = kind(document.get(key, default))
        except (TypeError, ValueError):
            reader.wrong((key,), f"must be a number, got {document[key]!r}")
    if reader.mistakes or policy is None:
        raise RecipeError("\n".join(dict.fromkeys(reader.mistakes)))  # one in rounds is met in each of them
    return Recipe(
        name=str(document.get("recipe", path.stem)),
        path=path,
        policy=policy,
        policy_path=policy_path,
        seed=int(numbers["seed"]),
        max_fail_rate=float(numbers["max_fail_rate"]),
        steps=steps,
        document=document,
        variables=reader.variables,
        dataset=Path(str(document["dataset"])) if document.get("dataset") else None,
        track=str(document.get("track") or ""),
    )


def absent_inputs(steps: Mapping[str, Step], variables: Mapping[str, str] | None = None) -> list[str]:
    """Say which files and folders steps would look for in vain, and which variable names each.

    Args:
        steps: By name.
        variables: Of their recipe.
    """
    wrong: dict[Path, str] = {}
    for name, step in steps.items():
        for path in step.inputs():
            if not path.exists():
                named = [v for v, text in (variables or {}).items() if text and Path(text) in (path, *path.parents)]
                cure = f"; give another with --set {named[0]}=…" if named else ""
                wrong.setdefault(path, f"{name}: {path}: no such file or folder{cure}")
    return list(wrong.values())
