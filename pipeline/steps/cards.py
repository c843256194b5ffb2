"""What a bundle says of itself to people and to other tools: licences, the evaluation, a model card and a dataset card.

    README.md            Hugging Face model card: what it is for, how good it is and on which images, what it was made from
    evaluation.json      the evaluations of its models, and the gates that they passed
    licences.json        of every part
    dataset/README.md    Hugging Face dataset card
    dataset/counts.csv   samples by split, state, licence and the step that brought them in; no image and no id
    dataset/croissant.json  the same for machines, where mlcroissant is installed

Each is written by the library that defines it, and read by it again.
"""

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tilth import models
from tilth.claims import Json
from tilth.engine.work import Work
from tilth.errors import MissingExtra, ModelError
from tilth.extras import optional
from tilth.policy import Policy
from tilth.samples import join_licences
from tilth.train.artifacts.artifact import read_about

UNKNOWN = "not known"
OCR_LICENCE = "Apache-2.0"  # of rapidocr and of the PP-OCR models that come in its wheel
COUNTED = ("split", "state", "licence", "step")
CURVES = ("curve", "pr_curve")
HEADLINES = {
    "f1": "F1",
    "recall_at_fpr05": "recall at 5 % false positives",
    "map50": "mAP at IoU 0.5",
    "ece": "calibration error",
}


def licences_of(work: Work, classifier: str, detector: str, reads: str) -> dict[str, dict[str, str]]:
    """Return of every part of a bundle where it is from, and under which licence: `not known` where nobody says.

    Args:
        work: Knows the artifacts and the data.
        classifier: Artifact.
        detector: Artifact; empty for none.
        reads: The language model; empty for none.
    """
    told = {}
    for part, name in (("classifier", classifier), ("detector", detector)):
        if name:
            base = read_about(work.artifact(name)).base.removeprefix("model:")
            told[part] = {"from": base, "licence": models.spec(base).licence or UNKNOWN}
    if reads:
        told["language model"] = {"from": reads, "licence": models.spec(reads).licence or UNKNOWN}
        told["OCR, not in the bundle"] = {"from": f"rapidocr {version('rapidocr')}", "licence": OCR_LICENCE}
    found = [str(licence or "") for (licence,) in work.dataset.tally("licence")]
    data = join_licences(*found) if found and all(found) else " AND ".join([*filter(None, found), UNKNOWN])
    told["training images, not in the bundle"] = {"from": f"dataset version {work.dataset.at.number}", "licence": data}
    return told


def evaluations_of(work: Work, classifier: str) -> dict[str, Json]:
    """Return what earlier steps found of a classifier, without its curves: evaluations, and gates between these."""
    ours = work.artifact(classifier)
    judged = [
        name for name in work.facts
        if work.artifacts.get(f"{name}.classifier") == ours and "f1" in work.facts[name]
    ]  # fmt: skip
    gates = {
        name: facts for name, facts in work.facts.items()
        if "passed" in facts and {*judged} & {*(_mapping(facts.get("images_judged")))}
    }  # fmt: skip
    return {name: _plain(work.facts[name]) for name in judged} | {name: _plain(facts) for name, facts in gates.items()}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _plain(facts: Any) -> Any:
    if isinstance(facts, Mapping):
        return {key: _plain(value) for key, value in facts.items() if key not in CURVES}
    return facts


def write_cards(
    folder: Path, work: Work, policy: Policy, licences: Mapping[str, Mapping[str, str]], evaluations: Mapping[str, Json]
) -> str:
    """Write all that this file lists into the folder of a bundle.

    Args:
        folder: Of the bundle, not sealed yet.
        work: Knows the data.
        policy: As it is served.
        licences: See `licences_of`.
        evaluations: See `evaluations_of`.

    Returns:
        What was left out, and why; empty when nothing was.

    Raises:
        ModelError: A card is not what its own library reads.
    """
    (folder / "licences.json").write_text(json.dumps(licences, indent=1) + "\n", encoding="utf-8")
    (folder / "evaluation.json").write_text(json.dumps(evaluations, indent=1) + "\n", encoding="utf-8")
    (folder / "dataset").mkdir()
    rows = sorted([*map(str, values), str(count)] for values, count in work.dataset.tally(*COUNTED).items())
    with (folder / "dataset" / "counts.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([[*COUNTED, "samples"], *rows])
    _model_card(folder, policy, licences, evaluations)
    _dataset_card(folder, work, policy, licences)
    try:
        _croissant(folder / "dataset", work, policy, licences)
    except MissingExtra as error:
        return f"dataset/croissant.json is left out: {error}"
    return ""


def _licence(licences: Sequence[str]) -> dict[str, Any]:
    """Write licences as the hub has them: one that it knows by its small letters, anything else by its name."""
    joined = join_licences(*licences)
    known = {"Apache-2.0": "apache-2.0", "MIT": "mit", "CC0-1.0": "cc0-1.0", "CC-BY-4.0": "cc-by-4.0"}
    return {"license": known[joined]} if joined in known else {"license": "other", "license_name": joined}


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |" for line in lines)


def _model_card(
    folder: Path, policy: Policy, licences: Mapping[str, Mapping[str, str]], evaluations: Mapping[str, Json]
) -> None:
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    measured = [
        EvalResult(
            task_type="image-classification", dataset_type="sealed", dataset_name=name, metric_type=metric,
            metric_name=called, metric_value=_value(facts[metric]),
        )
        for name, facts in ((name, _mapping(facts)) for name, facts in evaluations.items())
        for metric, called in HEADLINES.items()
        if metric in facts and _value(facts[metric]) is not None
    ]  # fmt: skip
    data = ModelCardData(
        **_licence([one["licence"] for part, one in licences.items() if "not in the bundle" not in part]),
        model_name=f"{policy.policy}-v{policy.version}", pipeline_tag="image-classification",
        tags=["content-safety", "moderation", "tilth"], eval_results=measured or None,
    )  # fmt: skip
    numbers = _table(
        ["evaluation", "number", "value"], [[m.dataset_name, m.metric_name, m.metric_value] for m in measured]
    )
    passed = [
        f"{name}: {facts['reason']}" for name, each in evaluations.items() if (facts := _mapping(each)).get("passed")
    ]
    text = f"""# {policy.policy}, version {policy.version}

A bundle for moderating images, made by Tilth. Serve it with `tilth serve`, check it with `tilth bundle verify`.

## What it decides

{
        _table(
            ["category", "shows in", "review above", "block above", "definition"],
            [[c.name, c.evidence, c.review_above, c.block_above, c.definition] for c in policy.categories],
        )
    }

It says how likely an image shows one of these, and nothing else. A person should look at what it sends to review.

## How good it is

{numbers if measured else "Not known: no evaluation of these models was there when they were packaged."}

{
        "Gates passed: " + "; ".join(passed) + "." if passed else "No gate compared it with an earlier model."
    } All numbers are in
`evaluation.json`; they hold for images like those that were measured.

## What it is made from

{_table(["part", "from", "licence"], [[part, one["from"], one["licence"]] for part, one in licences.items()])}
"""
    _write(folder / "README.md", data.to_yaml(), text, ModelCard)


def _value(measure: Json) -> float | None:
    told = _mapping(measure).get("mean", measure)
    return float(told) if isinstance(told, int | float) else None


def _dataset_card(folder: Path, work: Work, policy: Policy, licences: Mapping[str, Mapping[str, str]]) -> None:
    from huggingface_hub import DatasetCard, DatasetCardData

    data = DatasetCardData(
        **_licence([licences["training images, not in the bundle"]["licence"]]),
        pretty_name=f"Training images of {policy.policy}", task_categories=["image-classification", "object-detection"],
    )  # fmt: skip
    text = f"""# The images that {policy.policy} learned from

Version {work.dataset.at.number} of a Tilth dataset, digest `{work.dataset.digest()}`: {work.dataset.count()} samples.
The images are not in the bundle. `counts.csv` has their number by {", ".join(COUNTED)}; a state says who labelled them.

{_table(["split", "state", "samples"], [[*map(str, values), n] for values, n in work.dataset.tally("split", "state").items()])}
"""
    _write(folder / "dataset" / "README.md", data.to_yaml(), text, DatasetCard)


def _write(path: Path, head: str, text: str, kind: Any) -> None:
    path.write_text(f"---\n{head}\n---\n\n{text}", encoding="utf-8")
    if kind.load(path).data.to_yaml() != head:
        raise ModelError(f"{path.name}: huggingface_hub reads another card than was written")


def _croissant(folder: Path, work: Work, policy: Policy, licences: Mapping[str, Mapping[str, str]]) -> None:
    with optional():
        import mlcroissant as mlc
    digest = hashlib.sha256((folder / "counts.csv").read_bytes()).hexdigest()
    kinds = {**dict.fromkeys(COUNTED, mlc.DataType.TEXT), "samples": mlc.DataType.INTEGER}
    fields = [
        mlc.Field(
            id=f"groups/{name}", name=name, description=name, data_types=kind,
            source=mlc.Source(file_object="counts.csv", extract=mlc.Extract(column=name)),
        )
        for name, kind in kinds.items()
    ]  # fmt: skip
    described = mlc.Metadata(
        name=f"{policy.policy}-images",
        description=f"What {policy.policy} version {policy.version} learned from, counted; the images are not included.",
        license=[licences["training images, not in the bundle"]["licence"]],
        version=f"{work.dataset.at.number}.0.0",
        url=f"urn:tilth:{work.dataset.digest()}",
        cite_as=f"Tilth dataset {work.dataset.digest()}",
        date_published=datetime.fromisoformat(work.now()),
        distribution=[
            mlc.FileObject(
                id="counts.csv",
                name="counts.csv",
                content_url="counts.csv",
                encoding_formats=["text/csv"],
                sha256=digest,
            )
        ],
        record_sets=[mlc.RecordSet(id="groups", name="groups", fields=fields)],
    )
    (folder / "croissant.json").write_text(
        json.dumps(described.to_json(), indent=1, default=str) + "\n", encoding="utf-8"
    )
    found = mlc.Dataset(folder / "croissant.json")
    if sum(record["groups/samples"] for record in found.records("groups")) != work.dataset.count():
        raise ModelError("dataset/croissant.json: mlcroissant counts other samples than the dataset has")
