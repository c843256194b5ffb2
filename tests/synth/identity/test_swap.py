"""A person in an image gets the face of another who consented; nobody else does, and the file says so."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from drawn_faces import (
    DARK,
    FAIR,
    GREEN,
    LICENCES,
    picture,
    portrait,
    save_embedder,
    save_record,
    save_swapper,
    save_yunet,
)
from noise import noise_image

from tilth.claims import Claim
from tilth.engine.work import Work
from tilth.errors import ModelError
from tilth.geometry import iou_of
from tilth.images import Image, decode, encode_png
from tilth.origins.packet import COMPOSITE, MADE, encode
from tilth.origins.said import said
from tilth.policy import Category, Policy
from tilth.samples import NewSample, Sample
from tilth.synth.identity.aligning import matrix_of, paste
from tilth.synth.identity.ended import Forget
from tilth.synth.identity.faces import FindFaces, finder
from tilth.synth.identity.networks import Embedder, Network, Swapper
from tilth.synth.identity.parents import Chooser
from tilth.synth.identity.swap import FaceSwap, Networks
from tilth.synth.safety.consent import load_consents

POLICY = Policy(
    policy="small",
    version=1,
    categories=tuple(Category(name=name, definition="", prompts=(name,)) for name in ("bottle", "cigarette", "weapon")),
)
ASKED = POLICY.names
BOTTLE = (110.0, 120.0, 150.0, 155.0)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    folder = tmp_path_factory.mktemp("networks")
    swapper, embedder = save_swapper(folder / "swap.onnx"), save_embedder(folder / "embed.onnx")
    return Networks(swapper=Network(onnx=str(swapper), **LICENCES), embedder=Network(onnx=str(embedder), **LICENCES))


@pytest.fixture
def work(tmp_path: Path, work: Work) -> Work:
    return replace(work, policy=POLICY, name="face_swap")


def labelled(*labels: tuple[str, tuple[float, float, float, float]]) -> tuple[Claim, ...]:
    told = [
        Claim(category=name, box_xyxy=box, source="human:ann", asked=ASKED, policy=POLICY.tag) for name, box in labels
    ]
    return tuple(told) or (Claim(says="empty", source="human:ann", asked=ASKED, policy=POLICY.tag),)


def photo(image: Image, *claims: Claim, split: str = "train", **origin: Any) -> NewSample:
    told = {"source": "photo.png", "licence": "CC-BY-4.0", **origin}
    return NewSample(data=encode_png(image), origin=told, claims=claims, columns={"split": split})


def bottle(seed: int = 1, **told: Any) -> NewSample:
    return photo(portrait(seed), *labelled(("bottle", BOTTLE)), **told)


def covers(sample: NewSample, **told: Any) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(sample.data).hexdigest(), **told}


def swapping(folder: Path, networks: Networks, targets: Sequence[dict[str, Any]] = (), **settings: Any) -> FaceSwap:
    """The step with two consents: `giver` gives her green face, `sitter` lets his be replaced."""
    records = [save_record(folder / "giver.json", gives=portrait(99, GREEN))]
    if targets:
        records.append(save_record(folder / "sitter.json", targets=targets))
    return FaceSwap(**{"consent": tuple(records), "networks": networks, **settings})


def children(work: Work) -> list[Sample]:
    return list(work.dataset.samples("made and array_has(kinds, 'synth')"))


def test_a_covered_face_becomes_that_of_the_giver_and_all_around_it_stays(
    work: Work, tmp_path: Path, networks: Networks
) -> None:
    parent = bottle()
    work.add("photos", [parent])
    facts = swapping(tmp_path, networks, [covers(parent)]).run(work)
    assert (facts["made"], facts["with_faces"], facts["left_out"]) == (1, 1, {})
    [child] = children(work)
    before, after = decode(parent.data), child.pixels()
    changed = np.abs(after.astype(int) - before).max(2) > 0
    x0, y0, x1, y1 = (int(v) for v in child.origin["face_xyxy"])  # type: ignore[union-attr]
    assert changed[y0:y1, x0:x1].mean() > 0.3
    assert not changed[: y0 - 20].any()
    assert not changed[:, : x0 - 20].any()
    assert not changed[120:155, 110:150].any(), "the thing before the face keeps its pixels"
    cheek = slice(88, 94), slice(64, 70)
    green = lambda image: int(image[cheek][..., 1].mean()) - int(image[cheek][..., 0].mean())  # noqa: E731
    assert green(after) > green(before) + 20, "it was given the colour of the green face"
    columns = child.columns
    assert columns["face_swap.to_source"] > 0.5  # type: ignore[operator]
    assert columns["face_swap.to_parent"] < 0.9  # type: ignore[operator]


def test_labels_go_on_as_claims_and_the_split_is_that_of_the_parent(
    work: Work, tmp_path: Path, networks: Networks
) -> None:
    parent = bottle()
    work.add("photos", [parent])
    swapping(tmp_path, networks, [covers(parent)]).run(work)
    [child] = children(work)
    [claim] = child.claims
    assert (claim.category, claim.box_xyxy, claim.source, claim.asked) == ("bottle", BOTTLE, "synth:face_swap", ASKED)
    assert claim.evidence["said_by"] == "human:ann"
    assert child.split == "train"
    assert child.origin["category"] == "bottle"


def test_an_image_of_nothing_goes_on_as_one_and_with_categories_it_is_not_asked_for(
    work: Work, tmp_path: Path, networks: Networks
) -> None:
    parent = photo(portrait(2), *labelled())
    work.add("photos", [parent])
    step = swapping(tmp_path, networks, [covers(parent)])
    assert replace(step, categories=("bottle",)).run(work)["planned"] == 0
    assert step.run(work)["made"] == 1
    [child] = children(work)
    assert [(c.says, c.asked) for c in child.claims] == [("empty", ASKED)]


def test_the_file_says_what_was_done_by_which_consent_and_not_who_it_is(
    work: Work, tmp_path: Path, networks: Networks
) -> None:
    parent = bottle()
    work.add("photos", [parent])
    step = swapping(tmp_path, networks, [covers(parent)])
    step.run(work)
    [child] = children(work)
    origin = said(child.data).origin
    assert origin["method"] == "face_swap"
    assert origin["digital_source_type"] == COMPOSITE
    assert origin["parents"] == [parent.identify()[0]]
    assert origin["licence"] == "CC-BY-NC-4.0 AND unknown AND LicenseRef-consent AND CC-BY-4.0"
    digest = hashlib.sha256(step.consent[0].read_bytes()).hexdigest()[:12]
    told = {str(each["role"]): each for each in origin["consent"]}  # type: ignore[union-attr, index, call-overload]
    assert (told["source"]["record"], told["source"]["digest"]) == ("giver", digest)  # type: ignore[index, call-overload]
    assert told["target"]["record"] == "sitter"  # type: ignore[index, call-overload]
    assert origin["networks"]["swapper"]["weights"] == "CC-BY-NC-4.0"  # type: ignore[index, call-overload]
    assert "A. Giver" not in json.dumps(dict(child.origin)) + child.data.decode("latin-1")
    assert work.dataset.count("""origin like '%"record": "giver"%'""") == 1


def test_of_several_faces_only_the_one_that_the_consent_names_changes(
    work: Work, tmp_path: Path, networks: Networks
) -> None:
    image = picture(((60, 80), 40, FAIR), ((160, 80), 40, DARK), size_wh=(220, 160))
    parent = photo(image, *labelled())
    faces = finder("", 0.6)(image)
    assert len(faces) == 2
    right = max(faces, key=lambda face: face.box_xyxy[0])
    left = min(faces, key=lambda face: face.box_xyxy[0])
    work.add("photos", [parent])
    facts = swapping(tmp_path, networks, [covers(parent)]).run(work)
    assert facts["left_out"] == {"2 faces, and the consent does not say which": 1}
    swapping(tmp_path, networks, [covers(parent, face_xyxy=[125, 45, 195, 120])]).run(work)
    [child] = children(work)
    changed = np.abs(child.pixels().astype(int) - image).max(2) > 0
    inside = lambda box: changed[int(box[1]) : int(box[3]) + 1, int(box[0]) : int(box[2]) + 1]  # noqa: E731
    assert not inside(left.box_xyxy).any()
    assert inside(right.box_xyxy).mean() > 0.3
    nowhere = swapping(tmp_path, networks, [covers(parent, face_xyxy=[0, 120, 20, 150])]).run(work)
    assert nowhere["left_out"] == {"no face where the consent says that it is": 1}


def test_a_face_that_overlaps_the_covered_one_leaves_the_image_out(
    work: Work, tmp_path: Path, networks: Networks
) -> None:
    seen = replace(networks, detector=str(save_yunet(tmp_path / "yunet.onnx")), threshold=0.3)
    parents = [photo(dotted((60, 84), (60 + apart, 84)), *labelled()) for apart in (45, 64)]
    work.add("photos", parents)
    targets = [covers(parent, face_xyxy=[30, 54, 90, 114]) for parent in parents]
    plan = swapping(tmp_path, seen, targets)
    chooser = Chooser(work, load_consents(plan.consent), (), min_side=32, per_image=1)
    work.map(FindFaces(detector=seen.detector, threshold=seen.threshold))
    assert dict(chooser.plan(9).left_out) == {"another face overlaps it": 1}
    [swap] = chooser.plan(9).swaps
    assert (swap.parent, len(swap.others)) == (parents[1].identify()[0], 1)


def dotted(*dots: tuple[int, int]) -> Image:
    """What `save_yunet` finds faces in."""
    image = np.full((160, 200, 3), 120, np.uint8)
    for dot in dots:
        cv2.circle(image, dot, 5, (255, 0, 0), -1)
    return image


def test_a_face_is_not_pasted_over_another_that_it_touches() -> None:
    image = portrait(1)
    [face] = finder("", 0.6)(image)
    white = np.full((32, 32, 3), 255, np.uint8)
    other = (90.0, 60.0, 140.0, 120.0)
    changed = np.abs(paste(image, white, matrix_of(face, 32), [other]).astype(int) - image).max(2) > 0
    assert changed.any()
    assert not changed[60:120, 90:140].any()


@pytest.mark.parametrize("moved", [(0, 0), (60, 37), (-52, -45), (70, 60)])
def test_a_face_is_pasted_alike_wherever_it_is_in_an_image(moved: tuple[int, int]) -> None:
    image = portrait(1)
    [face] = finder("", 0.6)(image)
    green = np.full((32, 32, 3), GREEN, np.uint8)
    here = paste(image, green, matrix_of(face, 32), [(40.0, 100.0, 70.0, 110.0)])
    shift, (dx, dy) = np.float32([(1, 0, moved[0]), (0, 1, moved[1])]), moved  # type: ignore[arg-type]
    place = lambda picture: np.asarray(cv2.warpAffine(picture, shift, (160, 160)))  # noqa: E731
    there = replace(face, points=tuple((x + dx, y + dy) for x, y in face.points))
    kept = (40.0 + dx, 100.0 + dy, 70.0 + dx, 110.0 + dy)
    again = paste(place(image), green, matrix_of(there, 32), [kept])
    apart = np.abs(again.astype(int) - place(here))[place(np.ones_like(image)) > 0]
    assert apart.mean() < 0.5, "but for the blur at the edge of the image"
    assert np.percentile(apart, 99) <= 20


def test_what_a_model_drew_from_words_alone_has_the_face_of_nobody(
    work: Work, tmp_path: Path, networks: Networks
) -> None:
    drawn: dict[str, Any] = {"prompt": "a person with a bottle", "model_digest": "0a1b", "digital_source_type": MADE}
    drawn |= {"parents": [], "adapters": [], "controlnet": None}
    cases = [
        drawn,
        {**drawn, "parents": ["0" * 64]},
        {**drawn, "adapters": [{"model": "a person's"}]},
        {**drawn, "controlnet": {"model": "edges"}},
        {**drawn, "digital_source_type": COMPOSITE},
        {name: value for name, value in drawn.items() if name != "model_digest"},
        {"prompt": "a person", "digital_source_type": MADE},  # another tool's, which says nothing of what went in
    ]
    for seed, origin in enumerate(cases):
        image = portrait(seed)
        told = {"source": f"{seed}", "licence": "openrail", **origin}
        sample = NewSample(data=encode(image, told), origin=told, claims=labelled(("bottle", BOTTLE)))
        work.add(f"made-{seed}", [sample])
    facts = swapping(tmp_path, networks).run(work)
    assert (facts["made"], facts["left_out"]) == (1, {"a face without a consent": 6})
    [child] = [s for s in children(work) if "consent" in s.origin]
    assert [each["role"] for each in child.origin["consent"]] == ["source"]  # type: ignore[union-attr, index, call-overload]


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (photo(portrait(1), *labelled(("bottle", BOTTLE), ("weapon", BOTTLE))), "shows weapon: violence or weapons"),
        (
            photo(portrait(1), Claim(category="bottle", source="human:ann")),
            "nobody looked for weapon: violence or weapons",
        ),
        (bottle(caption="after a fight, wounded"), "words that came with it: violence or weapons"),
        (bottle(caption="a schoolboy"), "words that came with it: minors"),
        (bottle(caption="in lingerie"), "words that came with it: undress"),
        (photo(decode(noise_image(3)), *labelled(("bottle", (1, 1, 9, 9)))), "no face found"),
        (
            photo(portrait(1), *labelled(("bottle", BOTTLE), ("elsewhere", BOTTLE))),
            "shows elsewhere: not in the policy",
        ),
    ],
)
def test_an_image_that_must_not_get_another_face_is_left_out_and_named(
    work: Work, tmp_path: Path, networks: Networks, sample: NewSample, reason: str
) -> None:
    work.add("photos", [sample])
    facts = swapping(tmp_path, networks, [covers(sample)]).run(work)
    assert (facts["made"], facts["left_out"]) == (0, {reason: 1})
    [line] = (work.folder / "left_out.jsonl").read_text().splitlines()
    assert json.loads(line) == {"id": sample.identify()[0], "source": "photo.png", "reason": reason}
    assert not children(work)


def test_a_face_that_no_consent_covers_is_never_changed(work: Work, tmp_path: Path, networks: Networks) -> None:
    parent, other = bottle(1), bottle(2)
    work.add("photos", [parent, other])
    facts = swapping(tmp_path, networks, [covers(other)]).run(work)
    assert (facts["made"], facts["left_out"]) == (1, {"a face without a consent": 1})
    assert children(work)[0].origin["parents"] == [other.identify()[0]]


def test_nobody_is_given_their_own_face_and_a_consent_covers_only_its_categories(
    work: Work, tmp_path: Path, networks: Networks
) -> None:
    parent = bottle()
    work.add("photos", [parent])
    own = save_record(tmp_path / "own.json", gives=portrait(98), targets=[covers(parent)])
    step = FaceSwap(consent=(own,), networks=networks)
    assert step.run(work)["left_out"] == {"no consent gives a face for what it shows": 1}
    giver = save_record(tmp_path / "giver.json", gives=portrait(99, GREEN))
    scope = {"purposes": ["training"], "categories": ["cigarette"]}
    narrow = save_record(tmp_path / "own.json", targets=[covers(parent)], scope=scope)
    facts = FaceSwap(consent=(giver, narrow), networks=networks).run(work)
    assert facts["left_out"] == {"the consent for its face does not cover bottle": 1}


def test_nothing_of_what_a_model_is_measured_on_is_used(work: Work, tmp_path: Path, networks: Networks) -> None:
    held = [bottle(1, split="test"), bottle(2, split="val")]
    work.add("photos", held)
    facts = swapping(tmp_path, networks, [covers(each) for each in held]).run(work)
    assert (facts["made"], facts["with_faces"], facts["left_out"]) == (0, 0, {})


def test_a_killed_run_goes_on_with_the_same_images(work: Work, tmp_path: Path, networks: Networks) -> None:
    parents = [bottle(seed) for seed in range(1, 5)]
    work.add("photos", parents)
    step = swapping(tmp_path, networks, [covers(each) for each in parents])
    put, batches = work.dataset.put, list[int]()

    def killed(samples: Sequence[NewSample]) -> Any:
        batches.append(len(samples))
        if len(batches) == 2:
            raise KeyboardInterrupt
        return put(samples)

    import tilth.synth.identity.swap as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "COMMIT_ROWS", 2)
        patch.setattr(work.dataset, "put", killed)
        with pytest.raises(KeyboardInterrupt):
            step.run(work)
    assert step.run(work)["made"] == 4
    made = {s.id for s in children(work)}
    assert len(made) == 4
    anew = replace(work, dataset=type(work.dataset)(tmp_path / "anew"), folder=tmp_path / "anew-files")
    anew.add("photos", parents)
    step.run(anew)
    assert {s.id for s in children(anew)} == made


def test_each_image_made_of_a_parent_has_another_giver(work: Work, tmp_path: Path, networks: Networks) -> None:
    parent = bottle()
    work.add("photos", [parent])
    step = swapping(tmp_path, networks, [covers(parent)], per_image=5)
    more = save_record(tmp_path / "third.json", gives=portrait(97, DARK))
    facts = replace(step, consent=(*step.consent, more)).run(work)
    assert facts["by_source"] == {"giver": 1, "third": 1}
    assert len({s.id for s in children(work)}) == 2


def test_what_was_made_with_a_consent_that_is_over_is_dropped_and_comes_back_when_it_is_renewed(
    work: Work, tmp_path: Path, networks: Networks
) -> None:
    parents = [bottle(1), bottle(2)]
    work.add("photos", parents)
    step = swapping(tmp_path, networks, [covers(each) for each in parents])
    step.run(work)
    assert len(children(work)) == 2
    late = replace(work, now=lambda: "2199-01-01T00:00:00Z")
    with pytest.raises(Exception, match=r"the consent giver ended on .*ask again"):
        step.run(late)
    assert not children(work)
    [reason, _] = [s.drops[-1][1] for s in work.dataset.samples("made", dropped=True) if s.drops]
    assert reason.startswith("made with the consent giver, which ended on")
    assert step.run(work)["dropped_with_their_consent"] == 0
    assert len(children(work)) == 2


def test_forgetting_a_consent_erases_its_images_from_every_version(
    work: Work, tmp_path: Path, networks: Networks
) -> None:
    parents = [bottle(1), bottle(2)]
    work.add("photos", parents)
    swapping(tmp_path, networks, [covers(each) for each in parents]).run(work)
    gone, version = [s.id for s in children(work)], work.dataset.at.number
    facts = Forget(records=("sitter", "nobody")).run(work)
    assert facts == {"erased": 2, "by_record": {"sitter": 2, "nobody": 0}}
    assert not children(work)
    assert work.dataset.count() == 2
    rows = work.dataset.checkout(version).pool.get(gone, ["data", "origin"])
    assert all(row["data"] == b"" and "consent sitter" in str(row["origin"]) for row in rows.values())
    assert Forget(records=("sitter",)).run(work)["erased"] == 0


def test_a_detector_with_landmarks_lays_a_turned_face_upright(tmp_path: Path) -> None:
    image = np.full((150, 180, 3), 120, np.uint8)
    cv2.circle(image, (100, 68), 5, (255, 0, 0), -1)
    path = str(save_yunet(tmp_path / "yunet.onnx"))
    [face] = finder(path, 0.3)(image)
    assert iou_of(face.box_xyxy, (70, 38, 130, 98)) > 0.95
    assert face.points[2] == pytest.approx((100, 70), abs=0.1)
    turn = cv2.getRotationMatrix2D((100, 68), 25, 1.0)
    turned = replace(face, points=tuple(map(tuple, np.array(face.points) @ turn[:, :2].T + turn[:, 2])))
    upright = matrix_of(turned, 112)
    eyes = np.array(turned.points[:2]) @ upright[:, :2].T + upright[:, 2]
    assert eyes[0][1] == pytest.approx(eyes[1][1], abs=1.5)
    assert eyes[0][0] < eyes[1][0]
    large = cv2.resize(image, None, fx=10, fy=10, interpolation=cv2.INTER_NEAREST)
    seen = finder(path, 0.3)(np.asarray(large))[0]
    x0, y0, x1, y1 = seen.box_xyxy
    assert 940 < (x0 + x1) / 2 < 1060, "in pixels of the image, not of the smaller one that was looked at"
    assert 620 < (y0 + y1) / 2 < 740
    assert x0 < seen.points[2][0] < x1
    assert y0 < seen.points[2][1] < y1
    with pytest.raises(ModelError, match="not a face detector"):
        finder(str(save_embedder(tmp_path / "other.onnx")), 0.3)(image)


def test_faces_are_measured_once_as_columns(work: Work) -> None:
    work.add("photos", [bottle(), photo(decode(noise_image(1)), *labelled())])
    work.map(FindFaces())
    assert work.dataset.tally("faces.count") == {(1,): 1, (0,): 1}


def test_networks_are_read_from_their_graphs_and_those_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    def network(path: Path) -> Network:
        return Network(onnx=str(path), **LICENCES)

    image = portrait(1)
    [face] = finder("", 0.6)(image)
    embedder = Embedder(network(save_embedder(tmp_path / "e.onnx")))
    vector = embedder.embed(image, face)
    assert np.linalg.norm(vector) == pytest.approx(1)
    plain = Swapper(network(save_swapper(tmp_path / "s.onnx")))
    mapped = Swapper(network(save_swapper(tmp_path / "m.onnx", emap=True)))
    assert (plain.side, plain.length) == (32, 8)
    assert np.array_equal(mapped.swap(image, face, -vector)[0], plain.swap(image, face, vector)[0]), (
        "the matrix is used"
    )
    with pytest.raises(ModelError, match="takes embeddings of 8 numbers, the embedder gives 5"):
        plain.swap(image, face, Embedder(network(save_embedder(tmp_path / "f.onnx", 5))).embed(image, face))
    with pytest.raises(ModelError, match=r"a swapper takes a crop .* and an embedding"):
        Swapper(network(tmp_path / "e.onnx"))
    with pytest.raises(ModelError, match="an embedder takes one crop"):
        Embedder(network(tmp_path / "s.onnx"))
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelError, match="not a whole ONNX graph"):
        Swapper(network(tmp_path / "broken.onnx"))
    with pytest.raises(ModelError, match="no such file"):
        Swapper(network(tmp_path / "absent.onnx"))


def test_a_network_without_its_licences_is_refused() -> None:
    with pytest.raises(ValueError, match="say the licence of its weights and its data"):
        Network(onnx="swap.onnx", code="MIT")
