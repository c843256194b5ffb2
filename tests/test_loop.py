"""The benchmark of the loop: every variant is a recipe that can be run, and what it says of runs is what they say."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from places import ROOT

from tilth.engine.recipe import Recipe, load_recipe
from tilth.pipeline.table import step_table


@pytest.fixture(scope="module")
def parts() -> Iterator[dict[str, ModuleType]]:
    """The files of the benchmark, which find each other as scripts do."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield {name: importlib.import_module(name) for name in ("variants", "loop_figures", "loop")}
    sys.path.remove(str(ROOT / "benchmarks"))


def recipe(parts: dict[str, ModuleType], world: str, variant: str, folder: Path, **how: bool) -> Recipe:
    path = folder / f"{world}-{variant}.yaml"
    path.write_text(yaml.safe_dump(parts["variants"].recipe_of(variant, world, 3, folder, **how), sort_keys=False))
    return load_recipe(path, step_table())


def kinds(recipe: Recipe) -> list[str]:
    return [type(step).__name__ for step in recipe.steps.values()]


def test_every_variant_is_a_recipe_of_its_world(parts: dict[str, ModuleType], tmp_path: Path) -> None:
    pairs = [pair for pair in parts["variants"].needed(list(parts["variants"].WORLDS), []) if pair[1] != "find"]
    assert {world for world, _ in pairs} == {*parts["variants"].WORLDS} - {"rare"}
    for world, variant in pairs:
        for small in (False, True):
            made = recipe(parts, world, variant, tmp_path, small=small)
            assert made.seed == 3
            assert any("evaluate" in name for name in made.steps)
            assert {getattr(step, "against", "") for step in made.steps.values()} <= {"", *made.steps}
            assert "Gate" not in kinds(made)
        if variant != "random":  # it goes on from the base
            base = recipe(parts, world, "base", tmp_path, small=True)
            shared = [a for a, b in zip(base.steps.values(), made.steps.values(), strict=False) if a == b]
            assert len(shared) >= 2


def test_a_variant_differs_from_the_loop_in_what_it_is_called_for(parts: dict[str, ModuleType], tmp_path: Path) -> None:
    loop = recipe(parts, "faithful", "loop", tmp_path)
    budget = sum(step.budget for step in loop.steps.values() if type(step).__name__ == "Review")  # type: ignore[attr-defined]
    alone, perfect = (recipe(parts, "faithful", name, tmp_path) for name in ("alone", "perfect"))
    assert not {"Review", "Relabel"} & {*kinds(alone)}
    assert "Relabel" not in kinds(perfect)
    once: Any = perfect.steps["perfect"]
    assert (once.share, once.audit_share, once.error_rate) == (1, 1, 0)
    asked = [s for s in recipe(parts, "faithful", "one-round", tmp_path).steps.values() if type(s).__name__ == "Review"]
    assert [step.budget for step in asked] == [budget]  # type: ignore[attr-defined]
    some = [s for s in recipe(parts, "faithful", "few", tmp_path).steps.values() if type(s).__name__ == "Review"]
    assert sum(step.budget for step in some) * 5 == budget  # type: ignore[attr-defined]
    weak = recipe(parts, "weak", "no-verify", tmp_path)
    assert kinds(weak).count("Import") == 2
    assert not {"Ground", "Relabel"} & {*kinds(weak)}
    assert kinds(weak).count("Review") == kinds(loop).count("Review")
    assert not {"Filter", "Dedup"} & {*kinds(recipe(parts, "copies", "no-clean", tmp_path))}
    assert {"Generate", "LabelMade"} <= {*kinds(recipe(parts, "styles", "generate", tmp_path))}
    random = recipe(parts, "known", "random", tmp_path)
    assert [name for name in random.steps if "whole" in name] == ["random.whole", "evaluate.random_whole"]


def judged(recall: float) -> dict[str, Any]:
    three = {name: {"mean": recall} for name in ("recall_at_fpr05", "f1", "map50")}
    return {**three, "per_category": dict.fromkeys(("knife", "syringe", "lighter"), three)}


def test_figures_are_of_the_seeds_that_have_what_they_need(parts: dict[str, ModuleType], tmp_path: Path) -> None:
    def run(recall: float, actions: int) -> dict[str, Any]:
        steps = {"review.1": {"facts": {"human_actions": actions, "hours": actions / 400}}, "hash": {"facts": {}}}
        summary = {"baseline": judged(0.1), "final": judged(recall), "steps": steps}
        return {"summary": summary, "folder": tmp_path, "commit": "0"}

    curve = {100: 0.2, 400: 0.4, 1600: 0.6, 0: 0.7}
    random = {
        "steps": {
            f"random.{n or 'whole'}": {"facts": {"human_actions": n or 6400, "hours": (n or 6400) / 400}} for n in curve
        },
        **{f"random_{n or 'whole'}": judged(score) for n, score in curve.items()},
    }
    found = {("faithful", "random", seed): {"summary": random, "folder": tmp_path, "commit": "0"} for seed in (1, 2, 3)}
    found |= {("faithful", "loop", seed): run(0.5, 200) for seed in (1, 2)} | {("faithful", "loop", 3): run(0.9, 200)}
    found |= {("faithful", "few", 3): run(0.2, 50)}
    found |= {("faithful", "perfect", 1): run(0.6, 9000), ("faithful", "alone", 1): run(0.4, 0)}
    (tmp_path / "none.jsonl").touch()
    for each in found.values():  # what is kept of a run tells as much
        each["summary"] = parts["loop_figures"].trimmed(each["summary"], tmp_path / "none.jsonl")
    figures = importlib.import_module("figures").Figures("loop", seeds=[1, 2, 3])
    parts["loop_figures"].note_all(found, figures)
    told = json.loads(figures.write(tmp_path).read_text())["figures"]
    # 0.5 costs 800 at random, and all of the corpus is too little for 0.9
    assert told["saved_f1"]["value"] == pytest.approx((0.75 + 0.75 + 1 - 200 / 6400) / 3, abs=1e-5)
    assert told["saved_hours_f1"]["value"] == told["saved_f1"]["value"]
    assert told["faithful.beyond.f1"] == {"value": 1, "unit": "seeds", "n": 3}
    assert told["few_saved_map50"] == {"value": 0.5, "unit": "share", "n": 1}
    assert told["faithful.few.equal.map50"]["value"] == 100
    assert told["faithful_recall_gap"] == {"value": 0.1, "unit": "share", "n": 1}
    assert told["new_kinds_recall_gap"]["value"] == told["people_add_recall"]["value"] == 0.1
    assert told["faithful.random.whole.human_actions"]["value"] == 6400
    assert "step_rounds" not in told
    assert "recall_at_fpr05" not in told


def test_the_time_to_learn_is_read_from_the_events_of_the_last_start(
    parts: dict[str, ModuleType], tmp_path: Path
) -> None:
    rows = [
        {"time": "2026-11-29T18:00:00Z", "event": "started", "step": "final.detector"},
        {"time": "2026-11-29T18:10:00Z", "event": "started", "step": "final.detector"},
        *(
            {"time": f"2026-11-29T18:1{m}:30Z", "event": "progress", "label": "final.detector: train", "val_quality": q}
            for m, q in enumerate((0.3, 0.79, 0.8))
        ),
    ]
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert parts["loop_figures"].seconds_to_plateau(path, "final.detector") == 90
    assert parts["loop_figures"].seconds_to_plateau(path, "final.classifier") is None


def test_a_run_counts_wherever_it_was_made_unless_its_recipe_has_changed(
    parts: dict[str, ModuleType], tmp_path: Path
) -> None:
    def bench(name: str) -> Any:
        return parts["loop"].Bench(runs=tmp_path / name, threads=1, small=False, keep=False, commit="0", fresh=False)

    here, job = bench("here"), ("faithful", "alone", 3)
    folder = tmp_path / "here" / "faithful-alone-3"
    folder.mkdir(parents=True)
    (folder / "events.jsonl").touch()
    (folder / "summary.json").write_text(json.dumps({"final": judged(0.5), "steps": {}}))
    done = {"recipe": here.digest(*job), "commit": "0", "seconds": 1, "threads": 1, "summary": "summary.json"}
    (folder / "done.json").write_text(json.dumps(done))
    kept, wanted = tmp_path / "kept.jsonl", [job, ("faithful", "loop", 3)]
    assert [*parts["loop"].finished(wanted, here, kept)] == [job]
    told = parts["loop"].finished(wanted, bench("there"), kept)
    assert told[job]["summary"]["final"]["f1"] == {"mean": 0.5}
    kept.write_text(kept.read_text().replace(here.digest(*job), "0" * 12))
    assert not parts["loop"].finished(wanted, bench("there"), kept)
    assert kept.read_text()


def test_seeds_are_a_list_or_a_range(parts: dict[str, ModuleType]) -> None:
    assert parts["loop"].seeds_of("1-3,7") == [1, 2, 3, 7]
