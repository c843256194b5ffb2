"""Entries of one picture, in one file or in several, keep all that they say; what they can't both mean is named."""

import re
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import pytest
from label_files import coco, images, named, voc
from noise import noise_image

from tilth.annotate.exchange.importing import Import
from tilth.claims import Claim, State
from tilth.data.table import Table
from tilth.engine import intake
from tilth.engine.work import Work
from tilth.samples import NewSample

KNIFE, PILL = ("knife", 1, 1, 9, 9), ("pill", 3, 3, 8, 8)
Box = tuple[str, float, float, float, float]
SAYS: dict[str, tuple[Box, ...] | None] = {
    "knife": (KNIFE,),
    "knife again": (("knife", 1, 1, 9, 9),),
    "pill": (PILL,),
    "pill in the knife's place": (("pill", 1, 1, 9, 9),),
    "empty": (),
    "a word that nobody knows": (("unicorn", 1, 1, 9, 9),),
    "no label file": None,
}
# of two: categories, state, whether it is a conflict, categories that are known absent
BOTH: dict[tuple[str, str], tuple[list[str], State, bool, bool]] = {
    ("knife", "knife again"): (["knife"], State.REVIEWED, False, True),
    ("knife", "pill"): (["knife", "pill"], State.REVIEWED, False, True),
    ("knife", "pill in the knife's place"): (["knife", "pill"], State.REVIEWED, True, True),
    ("knife", "empty"): (["knife"], State.REVIEWED, True, True),
    ("knife", "a word that nobody knows"): (["knife"], State.REVIEWED, False, False),
    ("knife", "no label file"): (["knife"], State.REVIEWED, False, True),
    ("empty", "a word that nobody knows"): ([], State.UNLABELLED, False, False),
    ("empty", "no label file"): ([], State.CONFIRMED_EMPTY, False, True),
    ("a word that nobody knows", "no label file"): ([], State.UNLABELLED, False, False),
}
PAIRS = [pair for both in BOTH for pair in permutations(both)]


@pytest.fixture(params=["one batch", "a batch each", "killed between"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param != "one batch":
        monkeypatch.setattr(intake, "COMMIT_BYTES", 1)
    return str(request.param)


class Killed(BaseException):
    """Stands for the end of a process."""


@pytest.mark.parametrize("pair", PAIRS, ids=", ".join)
def test_two_files_of_one_picture_keep_what_both_say(
    work: Work, tmp_path: Path, pair: tuple[str, str], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "set"
    images(root, "0.png", "between.png", "z.png")
    (root / "z.png").write_bytes((root / "0.png").read_bytes())
    voc(root / "between.xml", "between.png", ("knife", 2, 2, 9, 9))  # a set of strangers alone would be refused
    for name, says in zip(("0", "z"), pair, strict=True):
        if SAYS[says] is not None:
            voc(root / f"{name}.xml", f"{name}.png", *(SAYS[says] or ()))
    bring = Import(path=root, empty_means="confirmed_empty")
    if way == "killed between":
        append, appends = Table.append, iter(range(99))

        def dies(table: Table, rows: list[dict[str, object]]) -> None:
            if table.path.name.startswith("test-") and next(appends) == 2:
                raise Killed
            append(table, rows)

        with monkeypatch.context() as patch:
            patch.setattr(Table, "append", dies)
            with pytest.raises(Killed):
                bring.run(work)
    facts = bring.run(work)
    (sample,) = [s for name, s in named(work).items() if name != "between.png"]
    categories, state, conflict, sure = BOTH.get(pair) or BOTH[pair[1], pair[0]]
    assert sorted(str(label.category) for label in sample.truth.labels) == categories
    assert sample.state == state
    assert facts["conflicts"]["images"] == conflict == ("conflict" in sample.columns)  # type: ignore[index, call-overload]
    for example in facts["conflicts"]["examples"]:  # type: ignore[index, call-overload, union-attr]
        assert re.match(r"set/0\.png, set/z\.png: import:set/[0z]\.xml says \w+, import:set/[0z]\.xml says ", example)  # type: ignore[arg-type]
    assert (str(sample.truth.of("dice")) == "absent") == sure
    assert facts["boxes"] == len(categories) + 1
    assert sum(facts["by_state"].values()) == facts["images"] == 2  # type: ignore[union-attr, attr-defined]
    assert facts["by_state"][str(state)] >= 1  # type: ignore[index, call-overload]
    assert Import(path=root, empty_means="confirmed_empty").run(work) == facts


def test_an_image_that_one_file_lists_twice_keeps_both_sets(work: Work, tmp_path: Path) -> None:
    root = tmp_path / "set"
    images(root, "a.png")
    coco(root, [("a.png", [("knife", [1, 1, 8, 8])]), ("a.png", [("pill", [2, 2, 4, 4])])])
    facts = Import(path=root).run(work)
    assert (facts["images"], facts["copies"], facts["boxes"], facts["by_state"]) == (1, 1, 2, {"reviewed": 1})
    assert named(work)["a.png"].truth.categories == {"knife", "pill"}


def test_a_conflict_in_one_file_names_the_images_that_it_is_about(work: Work, tmp_path: Path) -> None:
    root = tmp_path / "set"
    images(root, "a.png", "b.png")
    (root / "copy of b.png").write_bytes((root / "b.png").read_bytes())
    boxes = {"a.png": "knife", "b.png": "dice", "copy of b.png": "pill"}
    coco(root, [*((name, [(what, [1, 1, 8, 8])]) for name, what in boxes.items()), ("a.png", [("pill", [1, 1, 8, 8])])])
    facts = Import(path=root).run(work)
    file = "import:set/annotations.json"
    assert facts["conflicts"]["examples"] == [  # type: ignore[index, call-overload]
        f"set/a.png: {file} says knife, {file} says pill of one box",
        f"set/b.png, set/copy of b.png: {file} says dice, {file} says pill of one box",
    ]


def test_labels_of_an_image_that_cannot_be_kept_are_not_counted_as_taken(work: Work, tmp_path: Path) -> None:
    root = tmp_path / "set"
    images(root, "a.png", "b.png")
    (root / "b.png").write_bytes(noise_image(3, 16)[:-40])  # its head is whole
    coco(root, [(name, [("knife", [1, 1, 8, 8])]) for name in ("a.png", "b.png")])
    facts = Import(path=root).run(work)
    assert (facts["images"], facts["failed"], facts["boxes"]) == (1, 1, 1)
    assert facts["labels"] == {"read": 2, "taken": 1, "ignored": 0, "left_out": 1}


def test_what_an_entry_leaves_in_doubt_stays_so_however_many_others_say_that_nothing_is_there(
    work: Work, tmp_path: Path
) -> None:
    root = tmp_path / "set"

    def entries() -> Iterator[tuple[str, list[tuple[str, list[float]]]]]:
        for n in range(6):
            yield "a.png", [("knife", [5.0, 5.0, -1.0, 2.0])] if n == 3 else []

    images(root, "a.png", "b.png")
    coco(root, [*entries(), ("b.png", [])])
    Import(path=root, empty_means="confirmed_empty").run(work)
    assert {name: s.state for name, s in named(work).items()} == {
        "a.png": State.UNLABELLED,
        "b.png": State.CONFIRMED_EMPTY,
    }


def test_people_who_speak_of_one_picture_go_on_speaking_for_themselves(work: Work) -> None:
    ann, bob = (
        Claim(category="knife", box_xyxy=(1, 1, 9, 9), source=f"human:{who}", asked=("knife",))
        for who in ("ann", "bob")
    )
    work.add("images", [NewSample(data=noise_image(1), origin={}, claims=(claim,)) for claim in (ann, bob, ann)])
    (sample,) = work.dataset.samples(images=False)
    assert [claim.source for claim in sample.claims] == ["human:ann", "human:bob"]


def test_very_many_labels_of_one_picture_are_put_together_in_good_time(work: Work) -> None:
    said = [Claim(category="knife", box_xyxy=(n % 7, n, n % 7 + 3, n + 2), source="import:a") for n in range(4000)]
    work.add("images", [NewSample(data=noise_image(1), origin={}, claims=tuple(said)) for _ in range(2)])
    (sample,) = work.dataset.samples(images=False)
    assert len(sample.claims) == len(said)
