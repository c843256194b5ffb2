"""Other worlds than the default one: new kinds, seeds, shares, and a weak teacher; and the default one stays what it was."""

import hashlib
import json
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilth.errors import InputError
from tilth.starter import __main__ as starter
from tilth.starter.diffusion import tokenizer as diffusion
from tilth.starter.grounding import tokenizer as grounding
from tilth.starter.world.files import _corpus_image, draw, write_world
from tilth.starter.world.scene import (
    KINDS,
    LOOK_ALIKES,
    NEW_KINDS,
    NEW_LOOK_ALIKES,
    NEW_STYLES,
    SAFE_KINDS,
    STYLES,
    UNSAFE_KINDS,
    Spec,
    render,
)
from tilth.starter.world.sets import scene_set
from tilth.starter.world.settings import World
from tilth.starter.world.shapes import NEW_SHAPES, SHAPES
from tilth.starter.world.texts import signs

MODELS = Path(starter.__file__).parent / "models"
FIRST = {  # of the world before there were others
    "labelled": "e11e79a6bb9a11ad",
    "corpus": "6262a7291570c15e",
    "test": "3c63dba38908e4c6",
    "files": "ae8f9941d2a1719b",
    "set": "062ceb003148cddc",
}


def _digest(*parts: object) -> str:
    return hashlib.sha256(b"".join(p if isinstance(p, bytes) else json.dumps(p).encode() for p in parts)).hexdigest()[
        :16
    ]


def test_pre_training_and_the_default_world_draw_what_they_always_drew(tmp_path: Path) -> None:
    found = {
        purpose: _digest(*(part for i in range(8) for part in draw(purpose, i)))
        for purpose in ("labelled", "corpus", "test")
    }
    files = [
        _corpus_image(World(), i)[1] for i in (155, 176, 389, 112, 121, 130)
    ]  # plain, damaged, of the test, copies
    drawn = scene_set(tmp_path, "train", 8, side=64, sign_share=0.15)
    found |= {"files": _digest(*files), "set": _digest(drawn.images.tobytes(), [s.caption for s in drawn.scenes])}
    assert found == FIRST
    assert World().stamp() == {"labelled": 60, "corpus": 6000, "test": 1000, "revision": 1}


def test_no_miniature_has_seen_a_new_kind_or_style_or_read_its_name() -> None:
    assert {*NEW_KINDS, *NEW_LOOK_ALIKES.values()} == set(NEW_SHAPES)
    assert not {*NEW_STYLES} & {*STYLES}
    new = {*NEW_SHAPES, *NEW_STYLES}
    assert not new & {*KINDS, *SAFE_KINDS, *UNSAFE_KINDS, *SHAPES, *LOOK_ALIKES.values()}
    words = {
        word
        for group in signs().values()
        for lists in group.values()
        for texts in lists
        for text in texts
        for word in text.lower().split()
    }
    words |= {*grounding.vocabulary(), *diffusion.vocabulary()}
    files = [*MODELS.rglob("vocab.txt"), *MODELS.rglob("tokenizer.json")]
    assert len(files) >= 5
    words |= {word for path in files for word in re.findall(r"\w+", path.read_text().lower())}
    assert not new & words


@pytest.mark.parametrize("kind", [*NEW_KINDS, *NEW_LOOK_ALIKES.values()])
def test_a_new_kind_is_drawn_in_its_colour_and_within_its_circle(kind: str) -> None:
    assert all(np.hypot(*outline.T).max() < 1.07 for outline, _ in NEW_SHAPES[kind])
    for style in STYLES:
        scene = render(Spec(things=((kind, "red", ""),), surface="tile", style=style), np.random.default_rng(5))
        x0, y0, x1, y1 = (int(v) for v in scene.things[0].box_xyxy)
        inside = scene.image[y0:y1, x0:x1].reshape(-1, 3).astype(int)
        assert (inside[:, 0] - inside[:, 1:].max(1) > 25).mean() > 0.05, style


@pytest.mark.parametrize(("kind", "alike"), NEW_LOOK_ALIKES.items())
def test_a_look_alike_covers_most_of_what_the_kind_covers(kind: str, alike: str) -> None:
    def shape(name: str) -> Any:
        spec = Spec(things=((name, "red", ""),), surface="tile", style="photo")
        return render(spec, np.random.default_rng(5)).masks[0]

    def overlap(one: str, other: str) -> float:
        return float((shape(one) & shape(other)).sum() / (shape(one) | shape(other)).sum())

    least = min(overlap(a, b) for a, b in LOOK_ALIKES.items())
    assert overlap(kind, alike) > least
    assert overlap(kind, alike) > overlap(kind, "book") + 0.1


def _kinds(world: World, purpose: str, n: int) -> list[set[str]]:
    return [{label["category"] for label in draw(purpose, i, world)[1]["labels"]} for i in range(n)]


def test_another_seed_is_another_world_and_the_same_seed_the_same() -> None:
    ids = [{draw("corpus", i, World(seed=seed))[1]["id"] for i in range(6)} for seed in (0, 1, 2, 1)]
    assert ids[1] == ids[3]
    assert len(ids[0] | ids[1] | ids[2]) == 18


def test_a_world_holds_the_kinds_that_were_asked_for_as_often_as_was_asked() -> None:
    world = World(kinds="all", prevalence={"syringe": 0.3, "knife": 0.1, "dice": 0.0}, seed=4)
    met = Counter(kind for kinds in _kinds(world, "corpus", 150) for kind in kinds)
    assert met["syringe"] > 30 > met["knife"] > 5
    assert met["dice"] == 0
    assert world.safe == (*SAFE_KINDS, "screwdriver", "lipstick")
    new = {kind for kinds in _kinds(World(kinds="new", prevalence=0.4), "corpus", 40) for kind in kinds}
    assert new - {"text_area"} == {*NEW_KINDS}


def test_given_images_show_each_new_kind_so_often_and_chance_adds_none() -> None:
    world = World(kinds="all", given=3, labelled=20, labelled_styles=("neon", "sketch"))
    shown = _kinds(world, "labelled", 20)
    assert [sum(kind in kinds for kinds in shown) for kind in NEW_KINDS] == [3, 3]
    assert any(kinds & set(UNSAFE_KINDS) for kinds in shown)
    assert {draw("labelled", i, world)[1]["style"] for i in range(8)} == {"neon", "sketch"}


def test_what_is_rare_in_a_style_is_thinned_there_alone_and_not_in_the_test() -> None:
    world = World(prevalence={"knife": 0.6}, styles=("photo", "neon"), rare=("knife:neon",))
    met = Counter(
        row["style"]
        for i in range(90)
        if "a knife" in (row := draw("corpus", i, world)[1])["caption"]
        or any(label["category"] == "knife" for label in row["labels"])
    )
    assert met["photo"] > 15 > 9 > met["neon"]
    assert [draw("test", i, world)[1] for i in range(9)] == [
        draw("test", i, World(styles=world.styles))[1] for i in range(9)
    ]


@pytest.fixture(scope="module")
def weak(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world of new kinds, half of it copies, with a weak teacher."""
    out = tmp_path_factory.mktemp("world") / "w"
    settings: dict[str, Any] = {
        "kinds": "new",
        "prevalence": 0.35,
        "copies": 0.3,
        "leaks": 0.2,
        "labelled": 4,
        "test": 10,
    }
    weak = {"lost": 0.4, "renamed": 0.2, "added": 0.3, "text_area.lost": 1.0, "text_area.renamed": 0.0}
    assert write_world(out, corpus=220, weak_teacher=weak, workers=1, **settings)
    assert not write_world(out, World(corpus=220, weak_teacher=weak, **settings), workers=1)
    return out


def test_copies_and_leaks_are_as_many_as_asked_and_leaks_are_of_the_test(weak: Path) -> None:
    truth = [json.loads(line) for line in (weak / "truth.jsonl").read_text().splitlines()]
    tested = {row["caption"] for row in truth if row["split"] == "test"}
    copies = [row for row in truth if row["file"].endswith(".jpg")]
    assert 35 < len(copies) < 85
    assert 12 < sum(row["caption"] in tested for row in copies) < 45
    assert "things" not in truth[0]
    categories = json.loads((weak / "labelled" / "annotations.json").read_text())["categories"]
    assert [c["name"] for c in categories] == ["syringe", "lighter", "text_area"]


def test_a_weak_teacher_loses_adds_and_renames_and_its_scores_overlap(weak: Path) -> None:
    truth = {
        row["file"]: row
        for row in map(json.loads, (weak / "truth.jsonl").read_text().splitlines())
        if row["split"] == "corpus"
    }
    said = json.loads((weak / "teacher" / "annotations.json").read_text())
    names = {c["id"]: c["name"] for c in said["categories"]}
    files = {image["id"]: image["file_name"] for image in said["images"]}
    assert set(files.values()) == set(truth)
    right: list[float] = []
    wrong: list[float] = []
    near: list[float] = []
    for label in said["annotations"]:
        (x, y, w, h), row = label["bbox"], truth[files[label["image_id"]]]
        assert w > 0 < h
        assert min(x, y) >= 0
        assert max(x + w, y + h) <= row["side"]
        same = [true["box_xyxy"] for true in row["labels"] if true["category"] == names[label["category_id"]]]
        off = min(
            (max(abs(a - b) for a, b in zip(box, (x, y, x + w, y + h), strict=True)) / max(w, h) for box in same),
            default=9,
        )
        (right if off < 0.2 else wrong).append(label["score"])
        near += [off] if off < 0.2 else []
    boxes = [true["category"] for row in truth.values() for true in row["labels"]]
    assert "text_area" in boxes
    kept = sum(category != "text_area" for category in boxes) * 0.6 * 0.8
    assert abs(len(right) - kept) < 4 * kept**0.5
    assert len(wrong) > 0.3 * len(truth) * 0.6
    assert 0.65 < np.mean(right) < 0.75 < max(wrong)
    assert 0.42 < np.mean(wrong) < 0.58
    assert 0.005 < np.median(near) < 0.06


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"kinds": "old"}, "known, new, all"),
        ({"seed": -1}, "at least 0"),
        ({"prevalence": {"syringe": 0.1}}, "no 'syringe'"),
        ({"prevalence": 0.3}, "together"),
        ({"copies": float("nan")}, "copies must lie"),
        ({"copies": 0.6, "leaks": 0.6}, "copies and leaks"),
        ({"styles": ()}, "at least one"),
        ({"labelled_styles": ("oil",)}, "no 'oil'"),
        ({"test_styles": ("oil",)}, "no 'oil'"),
        ({"examples": -1}, "examples must be at least 0"),
        ({"rare": ("knife",)}, "after the colon"),
        ({"rare": ("spoon:neon",)}, "no 'spoon'"),
        ({"given": 2}, "kinds new or all"),
        ({"given": 40, "kinds": "all"}, r"in \[0, 30\]"),
        ({"weak_teacher": {"lots": 0.1}}, "no 'lots'"),
        ({"weak_teacher": {"cup.lost": 0.1}}, "no 'cup'"),
        ({"weak_teacher": {"lost": 1.5}}, "weak_teacher lost"),
        ({"weak_teacher": {"added": -1}}, "weak_teacher added"),
    ],
)
def test_a_wrong_setting_is_named_with_what_there_is(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        World(**wrong)


def test_the_test_and_the_examples_may_be_of_a_style_that_nothing_else_shows(tmp_path: Path) -> None:
    told = {"labelled": 6, "corpus": 6, "test": 6, "styles": ("photo",), "test_styles": ("blueprint",), "examples": 5}
    assert write_world(tmp_path / "w", workers=1, **told)
    truth = [json.loads(line) for line in (tmp_path / "w" / "truth.jsonl").read_text().splitlines()]
    styles = {split: {row["style"] for row in truth if row["split"] == split} for split in World(**told).folders}
    assert styles == {"labelled": {"photo"}, "corpus": {"photo"}, "test": {"blueprint"}, "examples": {"blueprint"}}
    assert len([*(tmp_path / "w" / "examples").iterdir()]) == 5
    drawn = draw("examples", 0, World(**told))[0]
    assert (tmp_path / "w" / "examples" / "000000.png").read_bytes() == drawn


def test_a_blueprint_is_pale_lines_on_blue_whatever_the_colour_of_the_thing() -> None:
    def pixels(color: str) -> Any:
        spec = Spec(things=(("dice", color, ""),), surface="wood", style="blueprint")
        return render(spec, np.random.default_rng(3)).image.astype(int)

    red, blue = pixels("red"), pixels("blue")
    assert np.abs(red - blue).mean() < 3
    assert (red[..., 2] - red[..., 0]).mean() > 60
    assert (red.min(-1) > 170).sum() > 100


def _run(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setattr("sys.argv", ["python -m tilth.starter", *shlex.split(line)])
    starter.main()


def test_the_example_of_the_help_text_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [line] = re.findall(r"Example: python -m tilth.starter (.*)", starter.EXAMPLE.replace("\\\n", ""))
    monkeypatch.chdir(tmp_path)
    _run(monkeypatch, line + " --labelled 16 --corpus 20 --test 4")
    told = json.loads(Path("runs/faithful-world/world.json").read_text())
    assert told["kinds"] == "all"
    assert told["weak_teacher"]["knife.lost"] == 0.5
    assert Path("runs/faithful-world/teacher/annotations.json").exists()


@pytest.mark.parametrize(
    "option",
    [
        "--kinds old",
        "--seed x",
        "--prevalence many",
        "--prevalence knife=0.1,knife=0.2",
        "--weak-teacher lost",
        "--leaks 2",
        "--bogus 1",
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        _run(monkeypatch, f"world --out {tmp_path / 'w'} {option}")
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "w").exists()
