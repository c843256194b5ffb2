"""The report of a run: one HTML file that needs nothing else, and whose every number stands in `summary.json`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tilth.data.dataset import Dataset
from tilth.data.files import write_beside
from tilth.errors import InputError
from tilth.pipeline.report.benchmark import benchmark
from tilth.pipeline.report.cases import Cases, read_cases
from tilth.pipeline.report.dataset import census
from tilth.pipeline.report.loop import effort, generation, labelling, left_out, mining, proof, seeds
from tilth.pipeline.report.numbers import Numbers
from tilth.pipeline.report.parts import Section, evaluations, steps_of
from tilth.pipeline.report.pictures import Album, Draw
from tilth.pipeline.report.results import calibration, drift, gate, headline, pictures_of_change, results, stage2
from tilth.pipeline.report.store import cost, lineage, training
from tilth.pipeline.report.store import dataset as dataset_section
from tilth.pipeline.report.tested import by_category, by_severity, by_size, by_slice, confusion
from tilth.policy import Policy

TEMPLATES = Path(__file__).parent / "templates"


def write_report(run_folder: Path, dataset: Dataset, policy: Policy) -> Path:
    """Write `report.html` beside the `summary.json` of a run.

    Counts of the dataset are added to `summary.json` under `dataset`, and how test images changed sides under `cases`,
    so that the page holds no number of its own.

    Args:
        run_folder: `runs/<name>`; it must hold `summary.json`.
        dataset: Open at the version that the run ended with.
        policy: Decides which pictures are veiled.

    Returns:
        The path of the page.

    Raises:
        InputError: The run has not ended yet.
    """
    path = run_folder / "summary.json"
    if not path.exists():
        raise InputError(f"{path}: no such file; a run writes it when it ends, so run the recipe first")
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    draw = Draw(policy=policy, mined_steps=frozenset(steps_of(Numbers(summary), "mine")))
    summary["dataset"] = census(dataset, draw.see)
    cases = read_cases(run_folder, summary, policy)
    if cases is not None:
        summary["cases"] = cases.counts()
    write_beside(path, json.dumps(summary, indent=1))
    page = render(run_folder, summary, draw, Album(dataset, policy), cases)
    write_beside(run_folder / "report.html", page)
    return run_folder / "report.html"


def sections(run_folder: Path, numbers: Numbers, draw: Draw, album: Album, cases: Cases | None) -> list[Section]:
    """Build the sections of the page in their order; those with nothing to say are left out."""
    every = [
        results(numbers),
        pictures_of_change(numbers, cases, album),
        benchmark(numbers),
        by_category(numbers),
        by_slice(numbers),
        by_severity(numbers),
        by_size(numbers),
        confusion(numbers, cases, album),
        effort(numbers),
        gate(numbers),
        drift(numbers),
        seeds(draw, album),
        mining(numbers, draw, album),
        labelling(numbers),
        generation(numbers, draw, album),
        proof(numbers),
        left_out(numbers, draw, album),
        training(numbers),
        calibration(numbers),
        stage2(numbers),
        dataset_section(numbers),
        cost(numbers),
        lineage(numbers, run_folder),
    ]
    return [section for section in every if section.blocks]


def tiles(numbers: Numbers) -> list[dict[str, Any]]:
    """Pick the numbers for the head of the page."""
    found: list[dict[str, Any]] = []
    systems = evaluations(numbers)
    for metric, words in (
        ("recall_at_fpr05", "recall at 5\u202f% false positives"),
        ("map50", "mAP at IoU 0.50"),
        ("f1", "F1"),
    ):
        last = next((key for key, _, _ in reversed(systems.values()) if numbers.point(f"{key}.{metric}")), None)
        if last is not None:
            found.append({"value": numbers.estimate(f"{last}.{metric}", "percent"), "words": words})
    for key, unit, words in (
        ("human_actions", "count", "human actions"),
        ("dataset.samples", "count", "images in the dataset"),
        ("dataset.failed", "count", "images that failed"),
        ("peak_rss_mb.run", "mb", "peak memory"),
    ):
        if numbers.get(key):
            found.append({"value": numbers.show(key, unit), "words": words})
    return found


def render(run_folder: Path, summary: Mapping[str, Any], draw: Draw, album: Album, cases: Cases | None) -> str:
    """Fill the template."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    numbers = Numbers(summary)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        summary=summary,
        n=numbers,
        headline=headline(numbers),
        tiles=tiles(numbers),
        sections=sections(run_folder, numbers, draw, album, cases),
    )
