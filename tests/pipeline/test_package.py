"""A bundle says what it is, what it was made from and how good it was found to be; what it cannot be is refused before it is made."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from guard_models import guard_model
from model_server import answering
from noise import noise_image
from places import POLICY
from runtime_graphs import shared_bundle
from typer.testing import CliRunner

from tilth.engine.work import Work
from tilth.errors import InputError, ModelError, Unavailable
from tilth.pipeline.cli import bundle as cli_bundle
from tilth.pipeline.steps.cards import evaluations_of
from tilth.pipeline.steps.language import Asking, check_language_model
from tilth.pipeline.steps.package import Package
from tilth.policy import Category, Policy, load_policy
from tilth.runtime.bundles.bundle import verify
from tilth.samples import NewSample
from tilth.train.artifacts.artifact import About, load_for_training, save_trained

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
FOUND: dict[str, Any] = {"f1": {"mean": 0.91, "ci95": [0.88, 0.94]}, "ece": {"mean": 0.02}, "curve": [[0, 0, 1]]}


def given(work: Work, policy: Policy) -> Work:
    """Give a work models of a policy's pictured categories, as they come from the starter, and what was found of them."""
    work.policy = policy
    labels = [category.name for category in policy.pictured]
    for kind in ("classifier", "detector"):
        model = load_for_training(kind, f"starter:{kind}", labels)
        base = f"model:starter:{kind}@0123456789ab"
        about = About(kind=kind, base=base, labels=labels, side=96, mean=[0.5] * 3, std=[0.5] * 3)
        work.publish(f"final.{kind}", save_trained(model, about, work.folder / kind))
    work.publish("evaluate.final.classifier", work.artifact("final.classifier"))
    work.publish("evaluate.old.classifier", work.folder / "another")
    gate = {"passed": True, "reason": "recall rose", "images_judged": {"evaluate.old": 9, "evaluate.final": 9}}
    elsewhere = {"passed": True, "reason": "of others", "images_judged": {"evaluate.a": 9, "evaluate.b": 9}}
    work.facts |= {"evaluate.final": FOUND, "evaluate.old": FOUND, "gate": gate, "gate.other": elsewhere}
    work.folder = work.folder / "package"
    return work


def test_a_bundle_says_what_it_is_and_was_made_from_and_each_card_is_read_by_its_own_library(
    work: Work, policy: Policy
) -> None:
    from huggingface_hub import DatasetCard, ModelCard

    licences = ("CC0-1.0", "CC0-1.0", "MIT", "")
    new = [NewSample(data=noise_image(n, 96), origin={"licence": each}) for n, each in enumerate(licences)]
    work.add("photos", new)
    facts: Any = Package(measured_on=4).run(given(work, policy))
    bundle = Path(facts["folder"])
    assert {"README.md", "licences.json", "evaluation.json", "dataset/croissant.json"} <= verify(bundle).files.keys()

    card: Any = ModelCard.load(bundle / "README.md")
    assert {(e.dataset_name, e.metric_type): e.metric_value for e in card.data.eval_results} == {
        ("evaluate.final", "f1"): 0.91, ("evaluate.final", "ece"): 0.02
    }  # fmt: skip
    assert "Gates passed: gate: recall rose." in card.text
    assert "| knife | picture | 0.3 |" in card.text
    assert json.loads((bundle / "evaluation.json").read_text())["evaluate.final"] == {
        name: FOUND[name] for name in ("f1", "ece")
    }
    told = json.loads((bundle / "licences.json").read_text())
    assert {part: one["licence"] for part, one in told.items()} == {
        "classifier": "Apache-2.0",
        "detector": "Apache-2.0",
        "language model": "Apache-2.0",
        "OCR, not in the bundle": "Apache-2.0",
        "training images, not in the bundle": "CC0-1.0 AND MIT AND not known",
    }
    assert card.data.license == "apache-2.0"
    data: Any = DatasetCard.load(bundle / "dataset" / "README.md")
    assert (data.data.license, data.data.license_name) == ("other", "CC0-1.0 AND MIT AND not known")
    croissant = json.loads((bundle / "dataset" / "croissant.json").read_text())
    assert croissant["distribution"][0]["contentUrl"] == "counts.csv"
    assert (bundle / "dataset" / "counts.csv").read_text().count("\n") == 4
    assert facts["reads"] == "those that show text_area"
    assert set(facts["back_ends"]) == {"classifier", "detector"}
    assert not [path for path in bundle.rglob("*") if path.suffix in (".png", ".jpg")]

    app = typer.Typer()
    cli_bundle.add_to(app)
    done = CliRunner().invoke(app, ["bundle", "verify", str(bundle)])
    assert "14 files as they were sealed, its models answer; classifier by" in done.output
    (bundle / "README.md").write_bytes((bundle / "README.md").read_bytes()[:-1] + b"!")
    done = CliRunner().invoke(app, ["bundle", "verify", str(bundle)])
    assert isinstance(done.exception, ModelError)
    assert "README.md was changed; this is not the bundle that was sealed" in str(done.exception)


def test_a_guard_is_packaged_by_name_and_opened_where_the_bundle_says(
    work: Work, policy: Policy, tmp_path: Path
) -> None:
    model = guard_model(tmp_path / "guard", "llama_guard")
    step = Package(measured_on=0, language_model=str(model), asking=Asking(back_end="transformers"))
    facts: Any = step.run(given(work, policy))
    bundle = Path(facts["folder"])
    told = json.loads((bundle / "verdict.json").read_text())
    assert (told["back_end"], told["form"], told["model"]) == ("transformers", "llama_guard", str(model))
    assert told["labels"] == ["safe", *(category.name for category in policy.written)]
    assert json.loads((bundle / "bundle.json").read_text())["language_model"] == f"model:{model}@{told['digest']}"
    assert json.loads((bundle / "licences.json").read_text())["language model"]["licence"] == "not known"
    assert facts["language_model"] == "transformers"
    assert not list(bundle.glob("*.safetensors"))


def test_a_model_on_a_server_is_packaged_when_it_answers_and_not_when_it_does_not(work: Work, policy: Policy) -> None:
    given(work, policy)
    with answering(shared_bundle()) as (url, seen):
        asking = Asking(back_end="server", url=url, api="completions")
        step = Package(measured_on=0, language_model="Qwen/Qwen2.5-7B-Instruct", asking=asking)
        assert step.models() == (), "there is nothing to download"
        facts: Any = step.run(work)
        bundle = Path(facts["folder"])
        assert policy["knife"].definition in seen.bodies[0]["prompt"]
        assert json.loads((bundle / "bundle.json").read_text())["language_model"] == "server:Qwen/Qwen2.5-7B-Instruct"
        assert json.loads((bundle / "licences.json").read_text())["language model"]["licence"] == "Apache-2.0"
        app = typer.Typer()
        cli_bundle.add_to(app)
        assert "language model by server" in CliRunner().invoke(app, ["bundle", "verify", str(bundle)]).output
    told = CliRunner().invoke(app, ["bundle", "verify", str(bundle)]).exception
    assert isinstance(told, Unavailable)
    assert "the language model's server does not answer (unreachable)" in str(told)
    (work.folder / "bundle" / "bundle.json").unlink()
    with pytest.raises(Unavailable, match="does not answer"):
        step.run(work)


def test_what_is_not_known_is_said_and_never_made_up(work: Work) -> None:
    from tilth.pipeline.steps.cards import licences_of

    cells = Policy(policy="cells", version=1, categories=(Category(name="wbc", definition="", prompts=("cell",)),))
    given(work, cells)
    work.facts.clear()
    facts: Any = Package(detector="", language_model="", measured_on=0).run(work)
    text = (Path(facts["folder"]) / "README.md").read_text()
    assert "Not known: no evaluation of these models was there" in text
    assert "No gate compared it" in text
    assert facts["evaluations"] == []
    assert facts["reads"] == "none"
    assert not (Path(facts["folder"]) / "tuned.json").exists()
    assert licences_of(work, "final.classifier", "", "")["training images, not in the bundle"]["licence"] == "not known"


def test_only_what_was_found_of_these_models_is_told(work: Work, policy: Policy) -> None:
    assert set(evaluations_of(given(work, policy), "final.classifier")) == {"evaluate.final", "gate"}


def test_a_policy_that_does_not_say_where_words_are_is_packaged_and_told_what_that_costs(
    work: Work, tmp_path: Path
) -> None:
    whole = load_policy(POLICY)
    without = whole.with_categories(c for c in whole.categories if not c.is_signpost)
    facts: Any = Package(measured_on=0).run(given(work, without))
    assert facts["reads"] == "all that are not blocked"
    assert "no category of the policy says where there are words" in facts["notes"][0]
    assert "no category of the policy says" in (tmp_path / "events.jsonl").read_text()


def test_a_policy_of_more_categories_than_letters_is_refused_in_one_line() -> None:
    many = tuple(Category(name=f"kind {n}", definition="", evidence="text") for n in range(300))
    with pytest.raises(InputError, match="has 300 categories to judge; a verdict is one letter") as told:
        check_language_model("starter:verdict", Policy(policy="many", version=1, categories=many))
    assert "\n" not in str(told.value)
    pictured = tuple(Category(name=f"kind {n}", definition="", prompts=("x",)) for n in range(300))
    check_language_model(
        "", Policy(policy="many", version=1, categories=pictured)
    )  # nobody has to tell these apart by letters
