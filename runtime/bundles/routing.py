"""A router on disk: `route.json` says what it was learned for, `route.npz` holds its numbers; neither has code, or words of a text."""

import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from tilth.claims import Json
from tilth.errors import InputError, ModelError
from tilth.policy import Policy
from tilth.runtime.bundles.settings import read_settings
from tilth.runtime.stages.route import NUMBERS, UNSAFE, Costs, Line, Router

ROUTER = ("route.json", "route.npz")  # both or none
KINDS = ("text", "image")
ARRAYS = ("ids", "weights", "centre", "scale", "slopes", "bias", "calibration")

Array: TypeAlias = npt.NDArray[Any]
_Cost = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1)]


class _Told(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class CostSettings(_Told):
    """What a line routes by; see `Costs`."""

    missed: _Cost
    false_alarm: _Cost
    check: _Cost
    review: _Cost
    recall: _Share = 1.0
    false_positives: _Share = 0.0


class LineSettings(_Told):
    """All of a line that is no array; see `Line`."""

    outputs: tuple[str, ...] = Field(min_length=1)
    numbers: tuple[str, ...]
    trusted: tuple[str, ...] = ()
    known_from: _Share = 0.0
    longest: int = Field(default=0, ge=0)
    costs: CostSettings


class RouterSettings(_Told):
    """`route.json`.

    Args:
        format: Of both files, and of how numbers are read from a case.
        means: Categories that words decide -> what they meant when it learned.
        lines: By kind of case.
    """

    format: Literal[1]
    means: dict[str, str]
    lines: dict[Literal["text", "image"], LineSettings]


def write_router(folder: Path, router: Router, policy: Policy, facts: Mapping[str, Json] | None = None) -> None:
    """Write a router, and what else is worth remembering of its making."""
    lines: dict[str, Json] = {}
    arrays: dict[str, Array] = {}
    for kind in KINDS:
        line: Line | None = getattr(router, kind)
        if line is not None:
            told = {name: getattr(line, name) for name in ("outputs", "numbers", "trusted", "known_from", "longest")}
            lines[kind] = {**told, "costs": asdict(line.costs)}
            arrays |= {f"{kind}.{name}": getattr(line, name) for name in ARRAYS}
    settings = {**(facts or {}), "format": 1, "means": meanings(policy), "lines": lines}
    np.savez_compressed(folder / "route.npz", allow_pickle=False, **arrays)
    (folder / "route.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def meanings(policy: Policy) -> dict[str, str]:
    """Return what the categories mean that words decide: a router learned no others."""
    return {category.name: category.definition for category in policy.written}


def read_router(folder: Path, policy: Policy) -> Router | None:
    """Read the router of a bundle; None where it has none.

    Raises:
        InputError: It was learned for words that mean something else in the policy.
        ModelError: Its numbers are none, or not those that its settings describe.
    """
    if not (folder / "route.json").is_file():
        return None
    settings = read_settings(folder / "route.json", RouterSettings)
    if settings.means != meanings(policy):
        raise InputError(
            f"{folder}/route.json: it was learned for other words than those of policy {policy.policy} v{policy.version}; "
            "learn it again with train.router"
        )
    try:
        with (folder / "route.npz").open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise ModelError(f"{folder}/route.npz: cannot be read: {str(error)[:200]}") from error
    expected = (UNSAFE, *settings.means)
    for kind, told in settings.lines.items():
        # one that it says nothing of would count as harmless
        if sorted(told.outputs) != sorted(expected) or not {*told.trusted} <= {*expected}:
            raise ModelError(
                f"{folder}/route.json: {kind} has to tell {', '.join(expected)}, and tells {', '.join(told.outputs)}"
            )
    return Router(**{kind: _line(folder, kind, told, arrays) for kind, told in settings.lines.items()})


def _line(folder: Path, kind: str, told: LineSettings, arrays: Mapping[str, Array]) -> Line:
    k, m = len(told.outputs), len(told.numbers)
    v = arrays.get(f"{kind}.ids", np.zeros(0)).size
    shapes = {
        "ids": (v,), "weights": (v, k), "centre": (m,), "scale": (m,), "slopes": (m, k), "bias": (k,), "calibration": (k, 2)
    }  # fmt: skip
    own = {name: arrays.get(f"{kind}.{name}", np.zeros(0)) for name in ARRAYS}
    wrong = [name for name, shape in shapes.items() if own[name].shape != shape]
    wrong += [name for name, one in own.items() if one.dtype.kind not in "fu" or not np.isfinite(one).all()]
    if told.outputs[0] != UNSAFE or (kind == "text" and told.numbers != NUMBERS):
        wrong.append("outputs or numbers")
    if not wrong and (own["ids"].dtype != np.uint32 or (np.diff(own["ids"].astype(np.int64)) <= 0).any()):
        wrong.append("ids")
    if not wrong and ((own["scale"] <= 0).any() or (own["calibration"][:, 0] < 0).any()):
        wrong.append("scale or calibration")
    if wrong:
        raise ModelError(
            f"{folder}/route.npz: {', '.join(dict.fromkeys(wrong))} of {kind} are not what route.json describes"
        )
    return Line(
        outputs=told.outputs, numbers=told.numbers, trusted=told.trusted, known_from=told.known_from, longest=told.longest,
        costs=Costs(**told.costs.model_dump()), ids=own["ids"], weights=own["weights"], centre=own["centre"], scale=own["scale"],
        slopes=own["slopes"], bias=own["bias"], calibration=own["calibration"],
    )  # fmt: skip
