"""Without a consent that holds, of an adult, for this purpose and these categories, nothing is made; each refusal is one line."""

import hashlib
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from drawn_faces import GREEN, LICENCES, picture, portrait, save_embedder, save_record, save_swapper
from places import ROOT
from refusals import refusal
from typer.testing import CliRunner

from tilth.annotate.exchange.exporting import export
from tilth.annotate.exchange.importing import Import
from tilth.claims import Claim
from tilth.data.dataset import Dataset
from tilth.engine.recipe import load_recipe
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.events import Events
from tilth.images import encode_png
from tilth.pipeline.cli import steps as cli_steps
from tilth.pipeline.foresight import foresee
from tilth.pipeline.run import Run
from tilth.pipeline.table import step_table
from tilth.policy import Category, Policy, load_policy
from tilth.samples import NewSample
from tilth.synth.identity.ended import Forget
from tilth.synth.identity.networks import Network
from tilth.synth.identity.swap import FaceSwap, Networks
from tilth.synth.safety.consent import against_category, load_consents

TODAY = date.today()
YESTERDAY = str(TODAY - timedelta(days=1))
SCOPE = {"purposes": ["training"], "categories": ["bottle"]}


def category(name: str, definition: str = "", *prompts: str) -> Category:
    return Category(name=name, definition=definition, prompts=prompts or (name,))


POLICY = Policy(
    policy="small",
    version=1,
    categories=(
        category("bottle"),
        category("cigarette"),
        category("weapon"),
        category("bare", "People without clothes.", "person"),
        category("school", "Minors at school.", "classroom"),
    ),
)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    folder = tmp_path_factory.mktemp("networks")
    swapper, embedder = save_swapper(folder / "swap.onnx"), save_embedder(folder / "embed.onnx")
    return Networks(swapper=Network(onnx=str(swapper), **LICENCES), embedder=Network(onnx=str(embedder), **LICENCES))


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"expires": YESTERDAY}, f"the consent giver ended on {YESTERDAY}; ask again"),
        ({"withdrawn": YESTERDAY}, f"the consent giver was withdrawn on {YESTERDAY}"),
        ({"adult": False}, "known to be an adult"),
        ({"adult": None}, "known to be an adult"),
        ({"adult": "yes"}, "adult: input should be a valid boolean"),
        ({"subject": " "}, "needs a named subject"),
        ({"signed": None}, "is not signed at all"),
        ({"signed": {"day": str(TODAY + timedelta(days=9)), "document": "0" * 64}}, "is not signed until"),
        ({"signed": {"day": YESTERDAY, "document": "by hand"}}, "signed.document: string should match"),
        ({"scope": {"purposes": ["research"]}}, "the consent giver is not for 'training'; it is for research"),
        ({"scope": {**SCOPE, "categories": ["cigarette"]}}, "no consent that gives a face covers 'bottle'"),
        ({"licence": " "}, "references need a licence"),
        ({"references": None}, "needs references, whose face is given, or targets"),
        ({"references": None, "targets": [{"sha256": "0" * 64}]}, "nobody gives a face"),
        ({"references": [{"file": "giver.png", "sha256": "0" * 64}]}, "is not the image of the consent"),
        ({"references": [{"file": "absent.png", "sha256": "0" * 64}]}, "absent.png: No such file"),
        ({"record": "a name"}, "record must be up to 64 letters"),
        ({"colour": "red"}, "colour: no such key"),
    ],
)
def test_a_record_that_does_not_hold_is_refused_in_a_line(
    tmp_path: Path, networks: Networks, told: dict[str, Any], says: str
) -> None:
    record = save_record(tmp_path / "giver.json", gives=portrait(99), **told)
    step = FaceSwap(consent=(record,), categories=("bottle",), networks=networks)
    with pytest.raises(InputError) as caught:
        step.check(POLICY, TODAY)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "A. Giver" not in str(caught.value), "who it is stays in the record"
    assert caught.value.exit_code == 2


def test_a_consent_that_holds_lets_pass_and_says_what_is_left_out(tmp_path: Path, networks: Networks) -> None:
    record = save_record(tmp_path / "giver.json", gives=portrait(99))
    never = FaceSwap(consent=(record,), networks=networks).check(POLICY, TODAY)
    assert never == {"weapon": "violence or weapons", "bare": "sexual content", "school": "minors"}


def test_without_a_record_it_is_off(networks: Networks, work: Work) -> None:
    with pytest.raises(InputError, match="identity augmentation is off: it needs consent records"):
        FaceSwap(networks=networks).run(work)
    with pytest.raises(InputError, match="identity augmentation is off"):
        FaceSwap().check(POLICY, TODAY)


@pytest.mark.parametrize(
    ("name", "reason"), [("weapon", "violence or weapons"), ("bare", "sexual content"), ("school", "minors")]
)
def test_sexual_and_violent_categories_and_those_with_minors_are_no_targets(
    tmp_path: Path, networks: Networks, name: str, reason: str
) -> None:
    scope = {"purposes": ["training"], "categories": [name]}
    record = save_record(tmp_path / "giver.json", gives=portrait(99), scope=scope)
    with pytest.raises(InputError, match=f"refused: {name} is {reason}.*no setting allows it"):
        FaceSwap(consent=(record,), categories=(name,), networks=networks).check(POLICY, TODAY)
    with pytest.raises(ValueError, match="identity augmentation is never used for violence"):
        FaceSwap(purpose="a violent scene")


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (category("bottle", "A bottle of alcohol. Cups are fine."), ""),
        (category("cigarette", "A cigarette, lit or not."), ""),
        (category("dice", "Dice, as used for gambling."), ""),
        (category("knife"), "violence or weapons"),
        (category("harm", "Somebody is hurt.", "person"), "violence or weapons"),
        (category("couteau"), "violence or weapons"),
        (category("suggestive"), "undress"),
        (category("bottle", "A bottle. Wounded people are not meant."), ""),
    ],
)
def test_a_category_is_read_as_a_whole(told: Category, reason: str) -> None:
    assert against_category(told) == reason


def test_all_mistakes_of_all_records_are_told_at_once(tmp_path: Path) -> None:
    records = [
        save_record(tmp_path / "a.json", gives=portrait(1), expires="soon"),
        save_record(tmp_path / "b.json", gives=portrait(1), scope=None),
        save_record(tmp_path / "c.json", gives=portrait(1)),
        save_record(tmp_path / "d.json", gives=portrait(1), record="c"),
    ]
    with pytest.raises(InputError) as caught:
        load_consents(records)
    told = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in told] == [str(records[0]), str(records[1]), str(records[3])]
    assert "there is another record 'c'" in told[2]


def test_the_record_of_the_page_is_one(tmp_path: Path) -> None:
    shown = re.search(
        r"((?:^    .*\n|^\n)+)", (ROOT / "docs/identity.md").read_text().partition("`form-17.yaml`:")[2], re.M
    )
    assert shown
    (tmp_path / "form-17.yaml").write_text(textwrap.dedent(shown[1]))
    [record] = load_consents([tmp_path / "form-17.yaml"])
    assert record.adult
    assert record.targets[0].face_xyxy


@pytest.mark.parametrize("shown", [(), (((50, 80), 34, GREEN), ((120, 80), 34, GREEN))])
def test_a_reference_shows_the_face_of_its_subject_alone(
    tmp_path: Path, work: Work, networks: Networks, shown: tuple[Any, ...]
) -> None:
    work.policy = POLICY
    parent = real()
    work.add("photos", [parent])
    record = save_record(tmp_path / "giver.json", gives=picture(*shown, size_wh=(180, 160)))
    sitter = save_record(tmp_path / "sitter.json", targets=[covered(parent)])
    with pytest.raises(InputError, match=f"must show the face of its subject alone, {len(shown)} faces found"):
        FaceSwap(consent=(record, sitter), networks=networks).run(work)


def real(seed: int = 1) -> NewSample:
    claim = Claim(category="bottle", box_xyxy=(110, 120, 150, 155), source="human:ann", asked=POLICY.names)
    return NewSample(data=encode_png(portrait(seed)), origin={"source": "p.png", "licence": "CC0-1.0"}, claims=(claim,))


def covered(sample: NewSample) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(sample.data).hexdigest()}


def nets(networks: Networks) -> dict[str, Any]:
    return {role: {"onnx": getattr(networks, role).onnx, **LICENCES} for role in ("swapper", "embedder")}


@pytest.fixture
def recipe(tmp_path: Path, networks: Networks) -> Callable[..., Path]:
    """Write a recipe that swaps a face, its policy and its consents."""

    def write(**told: Any) -> Path:
        named = [{"name": name, "definition": "", "prompts": [name]} for name in ("bottle", "weapon")]
        (tmp_path / "policy.yaml").write_text(yaml.safe_dump({"policy": "small", "version": 1, "categories": named}))
        giver = save_record(tmp_path / "giver.json", gives=portrait(99, GREEN), **told)
        sitter = save_record(tmp_path / "sitter.json", targets=[covered(real())])
        step = {"consent": [str(giver), str(sitter)], "networks": nets(networks)}
        path = tmp_path / "faces.yaml"
        path.write_text(yaml.safe_dump({"recipe": "faces", "policy": "policy.yaml", "steps": [{"face_swap": step}]}))
        return path

    return write


def test_check_and_run_refuse_before_anything_is_done(recipe: Callable[..., Path], tmp_path: Path) -> None:
    fine = load_recipe(recipe(), step_table())
    found = foresee(fine.steps, fine.policy)
    found.refuse()
    assert "face_swap: weapon is left out: violence or weapons" in found.notes
    path = recipe(expires=YESTERDAY)
    done = subprocess.run(
        [sys.executable, "-m", "tilth.pipeline.cli.main", "check", str(path)], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "the consent giver ended on" in refusal(done)
    with pytest.raises(InputError, match="the consent giver ended on"):
        Run(load_recipe(path, step_table()), tmp_path / "run").execute()


def test_a_run_that_was_done_is_not_done_any_more_when_a_consent_has_ended(
    recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(load_recipe(recipe(), step_table()), tmp_path / "run")
    step = run.recipe.steps["face_swap"]
    now = run._key(step, "")
    assert run._key(step, "") == now

    class Later(date):
        @classmethod
        def today(cls) -> date:  # type: ignore[override]
            return TODAY + timedelta(days=400)

    monkeypatch.setattr("tilth.pipeline.run.date", Later)
    assert run._key(step, "") != now
    run.events.close()


@pytest.mark.parametrize("over", [{"expires": YESTERDAY}, {"withdrawn": YESTERDAY}])
def test_in_a_dataset_that_outlives_runs_the_next_run_drops_what_was_made_and_refuses(
    tmp_path: Path, recipe: Callable[..., Path], over: dict[str, Any]
) -> None:
    def run() -> None:
        document = yaml.safe_load((tmp_path / "faces.yaml").read_text()) | {"dataset": str(tmp_path / "data")}
        (tmp_path / "faces.yaml").write_text(yaml.safe_dump(document))
        with closing(Events()) as events:
            Run(load_recipe(tmp_path / "faces.yaml", step_table()), tmp_path / "run", events=events).execute()

    def made() -> int:
        return Dataset(tmp_path / "data").count("made")

    recipe()
    with closing(Events()) as events:
        policy = load_policy(tmp_path / "policy.yaml")
        work = Work(
            name="photos", dataset=Dataset(tmp_path / "data"), policy=policy, folder=tmp_path / "files", events=events
        )
        work.add("photos", [real()])
    run()
    assert made() == 1
    recipe(**over)
    for _ in range(2):
        with pytest.raises(InputError, match=r"the consent giver (ended|was withdrawn) on"):
            run()
        assert made() == 0
    recipe()
    run()
    assert made() == 1, "a consent that holds again"


def test_the_command_refuses_with_code_2_and_forget_erases(
    tmp_path: Path, recipe: Callable[..., Path], networks: Networks
) -> None:
    app = typer.Typer()
    cli_steps.add_to(app)
    recipe(adult=False)
    policy, data = tmp_path / "policy.yaml", tmp_path / "data"

    def run(*command: str) -> Any:
        return CliRunner().invoke(app, [command[0], str(data), "--policy", str(policy), *command[1:]])

    with closing(Events()) as events:
        work = Work(name="photos", dataset=Dataset(data), policy=load_policy(policy), folder=tmp_path, events=events)
        work.add("photos", [real()])
    told = yaml.safe_dump(nets(networks), default_flow_style=True, width=9999).strip()
    settings = (f"consent=[{tmp_path / 'giver.json'}, {tmp_path / 'sitter.json'}]", f"networks={told}")
    given = [part for setting in settings for part in ("--set", setting)]
    refused = run("face-swap", *given)
    assert isinstance(refused.exception, InputError)
    assert refused.exception.exit_code == 2
    assert "known to be an adult" in str(refused.exception)
    recipe()
    assert '"made": 1' in run("face-swap", *given).stdout
    assert Dataset(data).count("made") == 1
    assert '"erased": 1' in run("forget", "--set", "records=[giver]").stdout
    assert Dataset(data).count("made") == 0


def test_an_exported_image_comes_back_with_its_consent_and_is_forgotten_there_too(
    tmp_path: Path, work: Work, networks: Networks
) -> None:
    work.policy, parent = POLICY, real()
    work.add("photos", [parent])
    records = (
        save_record(tmp_path / "giver.json", gives=portrait(99, GREEN)),
        save_record(tmp_path / "sitter.json", targets=[covered(parent)]),
    )
    FaceSwap(consent=records, networks=networks).run(work)
    export(work.dataset, tmp_path / "out", "coco", say=lambda *_, **__: None)
    back = Work(
        name="import", dataset=Dataset(tmp_path / "back"), policy=POLICY, folder=tmp_path / "files", events=work.events
    )
    Import(path=tmp_path / "out").run(back)
    [child] = back.dataset.samples("made")
    assert {row["role"]: row["record"] for row in child.origin["consent"]} == {"source": "giver", "target": "sitter"}  # type: ignore[union-attr, index, call-overload]
    assert child.origin["networks"]["swapper"]["data"] == "unknown"  # type: ignore[index, call-overload]
    assert Forget(records=("giver",)).run(back)["erased"] == 1
    assert back.dataset.count("made") == 0
