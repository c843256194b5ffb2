"""Drawn people are recognised by all that is seen of them, and only who agreed to it."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from places import ROOT
from typer.testing import CliRunner

from tilth.annotate.exchange.importing import Import
from tilth.data.dataset import Dataset
from tilth.engine.work import Work
from tilth.errors import InputError, TilthError, Unavailable
from tilth.events import Events
from tilth.images import decode, image_id
from tilth.pipeline.persons import commands
from tilth.pipeline.persons.finding import find
from tilth.pipeline.persons.register import Register
from tilth.policy import load_policy
from tilth.starter.persons.files import People, write_people
from tilth.train.persons.album import read_people
from tilth.train.persons.embedder import Backbone
from tilth.train.persons.fusion import LIMITS, Asked, Fusion, decided, learn
from tilth.train.persons.learning import Lessons
from tilth.train.persons.promise import promise
from tilth.train.persons.scores import Compared, Strangers
from tilth.train.persons.train import TrainPerson

POLICY = load_policy(ROOT / "configs" / "policies" / "persons.yaml")
TODAY = "2026-12-01T08:00:00Z"
PLAIN = Fusion(
    strangers=Strangers(mean=(0.0,) * 4, deviation=(1.0,) * 4), slope=((1.0, 0, 0, 0),) * 4, height=((0.0,) * 4,) * 4, limit=4.0, bias=-4.0
)  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("persons") / "world"
    write_people(out, People(train=6, calibration=8, test=4, albums=2, references=1, queries=1))
    return out


@pytest.fixture(scope="module")
def trained(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Work, Path]:
    folder = tmp_path_factory.mktemp("persons-data")
    work = Work(
        name="import",
        dataset=Dataset(folder / "data"),
        policy=POLICY,
        folder=folder / "files",
        events=Events(),
        device="cpu",
    )
    Import(path=world / "annotations.json", licence="CC0-1.0").run(work)
    work.name = "train.person"
    step = TrainPerson(
        people=world / "people.jsonl", unlabelled="", lessons=Lessons(pretrain=1, steps=2, people=4, each=2)
    )
    facts = step.run(work)
    assert step.run(work)["model"] == facts["model"]  # what is there is not learned again
    return work, Path(str(facts["model"]))


@pytest.fixture
def model(trained: tuple[Work, Path], tmp_path: Path) -> Path:
    """The trained networks, as if their few calibration people had been enough for a promise."""
    folder = tmp_path / "model"
    shutil.copytree(trained[1], folder)
    about = json.loads((folder / "person.json").read_text())
    about["promise"] |= {"threshold": 0.0, "why": ""}
    (folder / "person.json").write_text(json.dumps(about))
    return folder


@pytest.fixture
def record(world: Path, tmp_path: Path) -> Callable[..., Path]:
    rows = [json.loads(line) for line in (world / "truth.jsonl").read_text().splitlines()]

    def write(name: str = "form-17", person: str = "test-0000", **told: Any) -> Path:
        own = [world / row["file"] for row in rows if row["person"] == person and row["role"] == "reference"]
        references = [{"file": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in own]
        document = {
            "record": name, "subject": "A. Drawing", "basis": "rights", "adult": True, "scope": {"purposes": ["recognition"]},
            "expires": "2027-01-01", "signed": {"day": "2026-01-01", "document": "0" * 64}, "licence": "CC0-1.0", "references": references,
        }  # fmt: skip
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(document | told))
        return path

    return write


def compared(z: list[list[float]], seen: list[list[bool]] | None = None) -> Compared:
    cosines = np.array([z], np.float32)
    both = np.ones_like(cosines, bool) if seen is None else np.array([seen])
    return Compared(cosines=cosines, both=both, quality=np.ones((1, cosines.shape[-1], 3), np.float32))


# the world and the split


def test_nobody_and_no_album_is_in_two_splits_and_half_of_the_test_is_unknown(world: Path) -> None:
    rows = [json.loads(line) for line in (world / "truth.jsonl").read_text().splitlines()]
    for name in ("person", "album"):
        splits: dict[str, set[str]] = {}
        for row in rows:
            if row[name]:
                splits.setdefault(row[name], set()).add(row["split"])
        assert all(len(some) == 1 for some in splits.values())
    known = {row["person"]: row["known"] for row in rows if row["split"] == "test"}
    assert sum(known.values()) * 2 == len(known) == 4
    assert {row["style"] for row in rows} == {"photo", "cartoon", "sketch", "neon"}
    assert image_id(decode((world / rows[0]["file"]).read_bytes())) == rows[0]["id"]
    assert all("face" not in row["boxes"] for row in rows if row["back"])


def test_an_album_in_two_splits_is_refused(world: Path, tmp_path: Path) -> None:
    first, *others = (world / "people.jsonl").read_text().splitlines()
    moved = json.loads(first) | {"id": "f" * 64, "split": "calibration", "role": "query"}
    (tmp_path / "people.jsonl").write_text("\n".join([first, json.dumps(moved), *others]))
    with pytest.raises(InputError, match="in two splits"):
        read_people(tmp_path / "people.jsonl")


def test_a_backbone_tells_the_licences_of_code_weights_and_data() -> None:
    with pytest.raises(ValueError, match="weights, data not told"):
        Backbone(model="some/faces@1f2e3d", code="MIT")


# what cues say together


def test_a_wrong_cue_does_not_outvote_two_right_ones() -> None:
    right, wrong = [4.0, 4.0, -50.0, 0.0], [-4.0, -4.0, 50.0, 0.0]
    best, _ = decided(PLAIN.chances(compared([right, wrong])))
    assert best[0] == 0


def test_no_cue_is_learned_to_decide_alone_however_well_it_parts_people() -> None:
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(-1, 5), 20)
    cosines = rng.normal(0, 1, (len(who), 5, 4)).astype(np.float32)
    cosines[who >= 0, who[who >= 0]] += [40, 3, 3, 3]
    of = Compared(cosines=cosines, both=np.ones_like(cosines, bool), quality=np.ones((len(who), 4, 3), np.float32))
    fusion = learn([Asked(compared=of, who=who)], PLAIN.strangers)
    best, chance = decided(fusion.chances(of))
    assert (best == who)[who >= 0].mean() > 0.9
    assert chance[who < 0].mean() < chance[who >= 0].mean()
    assert np.abs(fusion.evidence(of)).max() <= fusion.limit <= LIMITS[1]


def test_what_looks_like_two_people_is_sure_of_neither() -> None:
    _, one = decided(PLAIN.chances(compared([[3.0] * 4, [-3.0] * 4])))
    _, two = decided(PLAIN.chances(compared([[3.0] * 4, [3.0] * 4])))
    assert one[0] > 0.95
    assert two[0] <= 0.5


def test_a_missing_cue_says_nothing_and_nothing_seen_is_unknown() -> None:
    gone = [[True, True, False, False]] * 2
    z = [[3.0, 3.0, 9.0, 9.0], [0.0, 0.0, -9.0, -9.0]]
    neutral = [[3.0, 3.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    assert np.allclose(PLAIN.chances(compared(z, gone)), PLAIN.chances(compared(neutral)))
    assert PLAIN.chances(compared(z, [[False] * 4] * 2)).max() < 1e-9


def test_a_threshold_keeps_its_precision_on_others_and_few_people_promise_nothing() -> None:
    def drawn(seed: int, people: int) -> tuple[Any, Any, Any, list[str]]:
        rng = np.random.default_rng(seed)
        scores = rng.random(people * 10)
        return (
            scores,
            rng.random(len(scores)) < 0.6 + 0.4 * scores**0.5,
            np.ones(len(scores), bool),
            [str(k // 10) for k in range(len(scores))],
        )

    told = promise(*drawn(1, 400), 0.95)
    assert told.threshold is not None
    scores, right, _, _ = drawn(2, 400)
    assert right[scores >= told.threshold].mean() == pytest.approx(0.95, abs=0.015)
    assert told.low <= 0.95 <= told.high
    few = promise(*drawn(1, 8), 0.95)
    assert few.threshold is None
    assert "people" in few.why


# the register


def test_too_few_calibration_people_promise_nothing_and_then_nobody_is_recognised(
    trained: tuple[Work, Path], record: Callable[..., Path], tmp_path: Path
) -> None:
    work, model = trained
    register = Register.begin(tmp_path / "register", model, now=lambda: TODAY)
    register.enrol(record(), work.dataset)
    with pytest.raises(InputError, match="no precision is promised"):
        find(register, work.dataset, "", TODAY, Events())


def test_who_is_enrolled_is_found_waits_for_a_person_and_is_forgotten_everywhere(
    trained: tuple[Work, Path], model: Path, record: Callable[..., Path], tmp_path: Path
) -> None:
    data, copies = trained[0].dataset, tmp_path / "copies"
    copies.mkdir()
    register = Register.begin(tmp_path / "register", model, [copies], now=lambda: TODAY)
    register.enrol(record(), data)
    before = data.at.number
    facts = find(register, data, "", TODAY, Events())
    rows = register.waiting()
    assert facts["matches"] == facts["new_in_queue"] == len(rows) > 0
    assert {row["record"] for row in rows} == {"form-17"}
    assert data.at.number == before  # a match is no claim and no verdict
    assert find(register, data, "", TODAY, Events())["new_in_queue"] == 0
    kept = (copies / "form-17.safetensors").read_bytes()

    assert register.forget(["form-17"])["no_longer_waiting"] == len(rows)
    assert not list(tmp_path.rglob("form-17.safetensors"))
    assert "form-17" not in (tmp_path / "register" / "queue.jsonl").read_text()
    (copies / "form-17.safetensors").write_bytes(kept)  # a backup of the backup is played back
    Register(tmp_path / "register")
    assert not list(tmp_path.rglob("form-17.safetensors"))
    with pytest.raises(InputError, match="was forgotten"):
        register.enrol(record(), data)
    what = [json.loads(line)["what"] for line in (tmp_path / "register" / "audit.jsonl").read_text().splitlines()]
    assert what == ["enrol", "find", "find", "forget"]
    assert "A. Drawing" not in (tmp_path / "register" / "audit.jsonl").read_text()


def test_a_copy_that_cannot_be_reached_is_not_said_to_be_erased(
    trained: tuple[Work, Path], model: Path, record: Callable[..., Path], tmp_path: Path
) -> None:
    copies = tmp_path / "copies"
    copies.mkdir()
    register = Register.begin(tmp_path / "register", model, [copies], now=lambda: TODAY)
    register.enrol(record(), trained[0].dataset)
    copies.rename(tmp_path / "away")
    with pytest.raises(Unavailable, match="not erased yet"):
        register.forget(["form-17"])
    (tmp_path / "away").rename(copies)
    assert register.forget(["form-17"])["forgotten"] == ["form-17"]
    assert not list(copies.iterdir())


def test_an_expired_or_withdrawn_record_is_not_looked_for(
    trained: tuple[Work, Path], model: Path, record: Callable[..., Path], tmp_path: Path
) -> None:
    register = Register.begin(tmp_path / "register", model, now=lambda: TODAY)
    register.enrol(record(), trained[0].dataset)
    assert len(register.enrolled()[0]) == 1
    record(withdrawn="2026-11-30")
    found, left_out = register.enrolled()
    assert not found
    assert "was withdrawn" in left_out["form-17"]
    with pytest.raises(InputError, match="nobody to look for"):
        find(register, trained[0].dataset, "", TODAY, Events())
    record()
    assert not Register(tmp_path / "register", now=lambda: "2027-01-02T00:00:00Z").enrolled()[0]


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"adult": False}, "known to be an adult"),
        ({"signed": None}, "is not signed"),
        ({"expires": "2026-01-02"}, "ended on"),
        ({"scope": {"purposes": ["training"]}}, "is not for 'recognition'"),
        ({"references": [], "targets": [{"sha256": "0" * 64}]}, "no references"),
    ],
)
def test_who_did_not_agree_is_refused(
    trained: tuple[Work, Path], record: Callable[..., Path], tmp_path: Path, told: dict[str, Any], why: str
) -> None:
    register = Register.begin(tmp_path / "register", trained[1], now=lambda: TODAY)
    with pytest.raises(InputError, match=why):
        register.enrol(record(**told), trained[0].dataset)
    assert not list((tmp_path / "register" / "records").iterdir())


def test_the_commands_enrol_and_forget_and_refuse_whoever_has_no_record(
    trained: tuple[Work, Path], record: Callable[..., Path], tmp_path: Path
) -> None:
    app = typer.Typer()
    commands.add_to(app)
    app.command("other")(lambda: None)
    register, data = str(tmp_path / "register"), str(trained[0].dataset.root)

    def run(*line: str) -> Any:
        return CliRunner().invoke(app, ["person", *line])

    refused = run("enrol", register, str(tmp_path / "none.yaml"), "--model", str(trained[1]), "--dataset", data)
    assert isinstance(refused.exception, TilthError)
    assert refused.exception.exit_code == 2
    assert not Path(register).exists()
    done = run("enrol", register, str(record(expires="2099-01-01")), "--model", str(trained[1]), "--dataset", data)
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["references"] == 2
    assert json.loads(run("forget", register, "form-17").output)["files"] == 1
