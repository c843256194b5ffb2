"""What would go wrong after hours is said before a minute is spent."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from label_files import coco, images
from places import POLICY, ROOT
from pydantic import TypeAdapter
from typer.testing import CliRunner

from tilth import models
from tilth.annotate.exchange.importing import Import
from tilth.annotate.grounding.ground import Ground
from tilth.annotate.review.review import Review
from tilth.engine.work import Work
from tilth.errors import InputError, ModelError, Unavailable
from tilth.pipeline.cli.main import app
from tilth.pipeline.cli.settings import emptied, make_step, read_settings
from tilth.pipeline.foresight import foresee
from tilth.pipeline.steps.package import Package
from tilth.policy import Category, Policy, load_policy
from tilth.runtime.bundles.bundle import load_bundle
from tilth.synth.draw.generate import Generate
from tilth.train.artifacts.artifact import About, load_for_training, save_trained
from tilth.train.judge.evaluate import Evaluate
from tilth.train.judge.gate import Gate
from tilth.train.learn.classifier import TrainClassifier
from tilth.train.learn.detector import TrainDetector
from tilth.train.learn.enough import among, too_few
from tilth.train.learn.examples import Example

MAIN = [sys.executable, "-m", "tilth.pipeline.cli.main"]


def category(name: str, **more: Any) -> Category:
    return Category(name=name, definition=f"A {name}, whole or in part.", prompts=(name,), **more)


@pytest.fixture
def no_hub(tmp_path: Path) -> dict[str, str]:
    """An environment in which the hub does not answer, and nothing of it was ever downloaded."""
    return {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hub")}


def test_a_hub_model_without_network_is_told_at_once_by_check_and_run_and_single_steps(
    tmp_path: Path, no_hub: dict[str, str]
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes((ROOT / "docs" / "find.png").read_bytes())
    model = "owner/name@0123abc"
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"policy: {POLICY}\nsteps: [{{import: {{path: {tmp_path / 'images'}}}}}, hash, {{ground: {{model: {model}}}}}]\n"
    )
    data = ["import", str(tmp_path / "set"), "--policy", str(POLICY), "--set", f"path={tmp_path / 'images'}"]
    assert subprocess.run([*MAIN, *data], capture_output=True, check=False).returncode == 0
    for words in (
        ["check", str(recipe)],
        ["run", str(recipe), "--runs", str(tmp_path / "runs")],
        ["ground", str(tmp_path / "set"), "--policy", str(POLICY), "--set", f"model={model}"],
    ):
        began = time.monotonic()
        done = subprocess.run([*MAIN, *words], capture_output=True, text=True, env=no_hub, check=False)
        assert done.returncode == 75, done.stderr
        assert (
            f"{model}: http://127.0.0.1:9 does not answer (ConnectError); run again when there is network"
            in done.stderr
        )
        assert time.monotonic() - began < 15
    assert not (tmp_path / "runs" / "r" / "steps").exists(), "nothing was begun"


def test_a_model_that_is_nowhere_is_told_before_anything_else(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    models._hub_silent.cache_clear()
    steps = {"a": Ground(model="owner/name"), "b": Ground(model="owner/name@1"), "c": Generate(model="./nowhere")}
    found = foresee(steps, policy)
    models._hub_silent.cache_clear()
    assert [line.partition(";")[0] for line in found.wrong] == [
        "owner/name: name a commit, as in owner/name@<commit>, so that two runs load the same weights",
        "owner/name@1: offline and not downloaded yet",
        "./nowhere: no such folder",
    ]
    with pytest.raises(InputError, match="offline and not downloaded yet"):
        found.refuse()


def test_a_category_of_which_nothing_is_generated_is_named_before_anything_runs(policy: Policy) -> None:
    bare = Category(name="bare", definition="People without clothes.", prompts=("person",))
    with_it = Policy(policy="p", version=1, categories=(policy["knife"], bare))
    found = foresee({"generate": Generate()}, with_it)
    assert "generate: bare is left out: sexual content is never generated" in found.notes
    assert found.wrong == []
    alone = foresee({"generate": Generate(categories=("bare",))}, with_it)
    assert alone.wrong == [
        "generate: no category is left to generate: sexual content is never generated, and no setting allows it"
    ]
    assert foresee({"generate": Generate(categories=("unicorn",))}, policy).wrong


def test_words_that_the_grounding_model_was_not_taught_are_named(policy: Policy) -> None:
    assert foresee({"ground": Ground()}, policy).notes == []
    strange = Policy(policy="p", version=1, categories=[policy["knife"], category("leukocyte")])
    [note] = foresee({"ground": Ground()}, strange).notes
    assert note.startswith(
        "ground: starter:grounding was not taught these words of the policy and will hardly find them: leuko"
    )
    assert "it is not asked for leukocyte" in note


def test_a_review_by_people_needs_a_label_studio_that_answers(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert foresee({"r": Review()}, policy).away == []
    [nowhere] = foresee({"r": Review()}, policy, "labelstudio").away
    assert nowhere.startswith("r: no Label Studio runs here; start one with: tilth review up")
    down = foresee({"r": Review(backend="labelstudio", url="http://127.0.0.1:9")}, policy)
    with pytest.raises(Unavailable, match=r"Label Studio at http://127\.0\.0\.1:9 does not answer"):
        down.refuse()


def test_check_takes_the_reviewer_and_people_need_no_file_of_truth(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"policy: {POLICY}\nsteps: [{{import: {{path: {tmp_path}}}}}, {{review: {{truth: /nowhere.jsonl}}}}]\n"
    )
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path)}
    for reviewer, code, says in (
        ("", 2, "/nowhere.jsonl: no such file"),
        ("labelstudio", 75, "no Label Studio runs here"),
        ("nobody", 2, "--review must be simulated or labelstudio, got 'nobody'"),
    ):
        words = ["check", str(recipe), *(["--review", reviewer] if reviewer else [])]
        done = subprocess.run([*MAIN, *words], capture_output=True, text=True, env=environment, check=False)
        assert (done.returncode, says in done.stderr) == (code, True), done.stderr


@pytest.mark.parametrize(
    ("unsafe", "safe", "says"),
    [
        (30, 30, ""),
        (0, 30, "there are 0 unsafe and 30 safe images"),
        (30, 0, "there are 30 unsafe and 0 safe images"),
        (5, 12, "with 12 safe images, recall at 5% false positives is recall without a single one"),
    ],
)
def test_a_test_set_that_cannot_measure_is_named(
    policy: Policy, tmp_path: Path, unsafe: int, safe: int, says: str
) -> None:
    names = [c.name for c in policy.pictured]
    document = {
        "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
        "images": [{"id": i, "file_name": f"{i}.png"} for i in range(unsafe + safe)],
        "annotations": [{"id": i, "image_id": i, "category_id": 0, "bbox": [1, 1, 5, 5]} for i in range(unsafe)],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(document))
    steps = {"evaluate": Evaluate(test=tmp_path, classifier="c")}
    notes = foresee(steps, policy).notes
    assert len(notes) == bool(says)
    assert all(says in note for note in notes)
    (tmp_path / "annotations.json").write_text('{"images": 3')
    assert "not a COCO file that can be read" in foresee(steps, policy).notes[0]


def test_two_evaluations_of_different_images_are_named_before_the_gate_is_reached(policy: Policy) -> None:
    judge = {"old": Evaluate(classifier="c", split="val"), "new": Evaluate(classifier="c")}
    [note] = foresee({**judge, "gate": Gate(old="old", new="new")}, policy).notes
    assert (
        note == "gate: old judges split 'val' and new judges split 'test'; only images that both judge can be compared"
    )


def test_a_category_that_nearly_every_image_shows_or_hardly_one_is_named() -> None:
    def row(*labels: int, looked: tuple[str, ...] = ("human",) * 3) -> Example:
        return Example(id="", labels=labels, boxes=(), looked=looked, reviewed=True, made=False, val=False)

    rows = [row(0, 1)] * 100 + [row(0)] * 98 + [row(2)] + [row(looked=("", "human", "human"))] * 50
    told = too_few(among(rows, ["wbc", "rbc", "pill"]), negatives=True)
    assert told["wbc"].startswith(
        "198 of 199 images show it, so that the model will find it in nearly any picture; add images"
    )
    assert told["pill"] == "only 1 of 249 images that were looked at show it; it will hardly be learned"
    assert set(told) == {"wbc", "pill"}
    assert set(too_few(among(rows, ["wbc", "rbc", "pill"]), negatives=False)) == {"pill"}


def labelled(root: Path, knives: int, bottles: int) -> Path:
    """A COCO set whose first images show a knife, and the others a bottle."""
    n = knives + bottles
    names = [f"{i}.png" for i in range(n)]
    images(root, *names)
    coco(root, [(name, [("knife" if i < knives else "bottle", [1, 1, 8, 8])]) for i, name in enumerate(names)])
    return root


def test_too_few_negatives_are_told_before_a_run_by_the_labels_that_it_imports_or_by_its_dataset(
    work: Work, policy: Policy, tmp_path: Path
) -> None:
    train, detect = TrainClassifier(model="starter:classifier"), TrainDetector(model="starter:detector")
    bring = Import(path=labelled(tmp_path / "set", 12, 3))
    knives = "knife: 12 of 15 images show it, so that the model will find it in nearly any picture"
    bottles = "bottle: only 3 of 15 images that were looked at show it"
    kept = Import(path=labelled(tmp_path / "kept", 0, 9), split="val")

    first, second = foresee({"import": bring, "kept": kept, "train": train}, policy).notes
    assert first.startswith(f"train: by the labels that are imported, {knives}")
    assert second.startswith(f"train: by the labels that are imported, {bottles}")
    assert len(foresee({"import": bring, "train": detect}, policy).notes) == 1, "a detector needs no others"
    assert foresee({"import": bring, "review": Review(), "train": train}, policy).notes == [], "people may add some"
    assert foresee({"import": Import(path=tmp_path / "gone"), "train": train}, policy).notes == []

    work.name = "import"
    bring.run(work)
    first, second = foresee({"review": Review(), "train": train}, policy, dataset=work.dataset).notes
    assert first.startswith(f"train: in the dataset as it is now, {knives}")
    assert second.startswith(f"train: in the dataset as it is now, {bottles}")


def test_check_counts_in_the_dataset_of_an_earlier_run(work: Work, tmp_path: Path) -> None:
    Import(path=labelled(tmp_path / "set", 12, 3)).run(work)
    shutil.copytree(work.dataset.root, tmp_path / "runs" / "r" / "dataset")
    steps = [{"import": {"path": str(tmp_path / "set")}}, {"train.classifier": {"model": "starter:classifier"}}]
    recipe = tmp_path / "r.yaml"
    recipe.write_text(json.dumps({"recipe": "r", "policy": str(POLICY), "steps": steps}))
    said = CliRunner().invoke(app, ["check", str(recipe), "--runs", str(tmp_path / "runs")], catch_exceptions=False)
    assert said.exit_code == 0
    assert "note: train.classifier: in the dataset as it is now, knife: 12 of 15 images show it" in said.stdout


WRITTEN = {"evidence": "text"}


def test_a_language_model_that_does_not_know_the_policy_is_told_before_anything_is_trained(
    policy: Policy, tmp_path: Path
) -> None:
    assert foresee({"package": Package()}, policy).wrong == []
    alone = Policy(policy="p", version=1, categories=[category("wbc")])
    assert foresee({"package": Package()}, alone).wrong == []  # no words decide, so that none is needed
    other = Policy(policy="p", version=1, categories=[category("wbc"), category("slander", **WRITTEN)])
    for package, says in (
        (Package(), "starter:verdict does not know these words of the policy: slander (slander); say it in its words"),
        (Package(language_model=""), "words decide slander, and without a language model nobody reads them"),
    ):
        [wrong] = foresee({"package": package}, other).wrong
        assert wrong.startswith(f"package: {says}")
        assert "set language_model to a folder or hub id" in wrong
    unsaid = category("spam", **WRITTEN).model_copy(update={"definition": ""})
    [wrong] = foresee({"package": Package()}, Policy(policy="p", version=1, categories=[category("wbc"), unsaid])).wrong
    assert "policy: no definition (spam)" in wrong
    fewer = Policy(policy="p", version=1, categories=[policy["knife"], policy["threat"]])
    assert foresee({"package": Package()}, fewer).wrong == [], "it reads any policy that speaks in its words"


@pytest.fixture
def trained(work: Work) -> Work:
    """A classifier and a detector of two categories that words do not decide, as they come from the starter."""
    pictured = Policy(policy="cells", version=1, categories=[category("wbc"), category("rbc")])
    for kind in ("classifier", "detector"):
        model = load_for_training(kind, f"starter:{kind}", ["wbc", "rbc"])
        about = About(kind=kind, base="x", labels=["wbc", "rbc"], side=96, mean=[0.5] * 3, std=[0.5] * 3)
        work.publish(kind, save_trained(model, about, work.folder / kind))
    work.policy = pictured
    work.folder = work.folder / "package"
    return work


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_any_policy_is_packaged_and_a_failed_try_leaves_nothing_that_looks_like_a_bundle(trained: Work) -> None:
    import torch

    step, root = Package(classifier="classifier", detector="detector"), trained.folder.parents[1]
    model = trained.artifact("classifier") / "model.safetensors"
    whole = model.read_bytes()
    from safetensors.torch import load_file, save_file

    held = load_file(model)
    held[next(iter(held))].flatten()[0] = torch.nan
    save_file(held, model, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="weights hold values that are no numbers"):
        step.run(trained)
    assert not [p for p in (*root.glob("**/bundle*"),) if p.name.startswith("bundle")]
    model.write_bytes(whole)
    facts = step.run(trained)
    link = root / "bundle"
    assert facts["folder"] == str(link)
    assert link.is_symlink()
    assert not (link / "verdict.onnx").exists()
    assert load_policy(link / "policy.yaml").names == ("wbc", "rbc")
    shutil.rmtree(trained.folder)
    trained.folder.mkdir()
    replace(step, detector="").run(trained)  # labels without boxes train no detector
    assert not (link / "detector.onnx").exists()
    [verdict] = load_bundle(link, threads=1).moderate([np.zeros((40, 60, 3), np.uint8)])
    assert (verdict.boxes, set(verdict.scores)) == ((), {"wbc", "rbc"})
    trained.policy = Policy(
        policy="cells", version=2, categories=[category("wbc"), category("rbc"), category("platelet")]
    )
    with pytest.raises(InputError, match="classifier was trained before the policy had platelet; train it again"):
        step.run(trained)


@pytest.mark.parametrize(
    ("cls", "setting", "name", "means"),
    [
        (Package, "language_model=", "language_model", ""),
        (Package, "clear_below=", "clear_below", None),
        (Evaluate, "test=", "test", None),
        (Generate, "categories=", "categories", ()),
        (Generate, "methods=", None, "need shares"),
        (TrainClassifier, "states=", "states", ()),
        (TrainClassifier, "lr=", None, "valid number"),
    ],
)
def test_an_empty_value_means_what_is_empty_of_its_kind(
    cls: type, setting: str, name: str | None, means: object
) -> None:
    given = {"classifier": "c"} if cls is Evaluate else {}
    settings = {**given, **emptied(cls, read_settings([setting]))}
    if name is None:
        with pytest.raises(InputError, match=str(means)):
            make_step(cls, "x", settings)
        return
    assert getattr(make_step(cls, "x", settings), name) == means


def test_the_shipped_recipes_foresee_nothing_that_is_wrong_with_themselves(policy: Policy) -> None:
    from tilth.engine.recipe import load_recipe
    from tilth.pipeline.table import step_table

    for name in ("starter", "photos", "new-style"):
        path = ROOT / "configs" / "recipes" / f"{name}.yaml"
        told = yaml.safe_load(path.read_text()).get("variables") or {}
        variables = {key: value if isinstance(value, int) else "x" for key, value in told.items()}
        assert (
            foresee(
                load_recipe(path, step_table(), variables).steps, load_recipe(path, step_table(), variables).policy
            ).wrong
            == []
        )
    assert TypeAdapter(Package).validate_python({}).language_model == "starter:verdict"
