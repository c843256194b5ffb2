"""Mining adds what is worth a look, each image once, none of the sealed ones, and says why."""

import io
import json
import shutil
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mining_parts import random_retrieval_model, scene, scenes
from PIL import Image as PilImage

from tilth.claims import State
from tilth.data.dataset import Dataset
from tilth.encoders.families import open_encoder
from tilth.engine.work import Work
from tilth.errors import InputError, ModelError
from tilth.events import Events
from tilth.images import encode_png, image_id
from tilth.mining.copies.dedup import Dedup
from tilth.mining.search.mine import Mine
from tilth.mining.search.rank import Candidate, share_out
from tilth.mining.search.truth import precision_report
from tilth.models import locate
from tilth.policy import Policy
from tilth.samples import NewSample

CORPUS, SEALED = 80, 10


def jpeg_of(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    PilImage.fromarray(image).save(out, "JPEG", quality=80)
    return out.getvalue()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(random_retrieval_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of scenes, damaged files, and copies of the sealed images."""
    root = tmp_path_factory.mktemp("world")
    images = scenes(CORPUS + SEALED)
    for folder in ("corpus/deep", "test"):
        (root / folder).mkdir(parents=True)
    for i, image in enumerate(images):
        if i < CORPUS:
            (root / "corpus" / ("deep" if i % 2 else "") / f"{i:03d}.png").write_bytes(encode_png(image))
        else:
            (root / "test" / f"{i}.png").write_bytes(encode_png(image))
            (root / "corpus" / f"leak{i}.jpg").write_bytes(jpeg_of(image))
    (root / "corpus" / "damaged.png").write_bytes(encode_png(images[0])[:200])
    return root


def new_work(folder: Path, policy: Policy, seed: int = 0) -> Work:
    return Work(
        name="mine",
        dataset=Dataset(folder / "dataset"),
        policy=policy,
        folder=folder / "files",
        events=Events(),
        seed=seed,
    )


def settings(world: Path, model: str, **more: object) -> Mine:
    return Mine(corpus=str(world / "corpus"), model=model, never=(world / "test",), **{"per_category": 5, **more})  # type: ignore[arg-type]


@pytest.fixture
def mined(world: Path, model: str, tmp_path: Path, policy: Policy) -> tuple[Work, dict[str, object]]:
    work = new_work(tmp_path, policy)
    return work, dict(settings(world, model, explore=0.25, licence="CC0-1.0").run(work))


def test_mined_images_are_unlabelled_and_say_where_they_come_from_and_why(
    mined: tuple[Work, dict[str, object]],
) -> None:
    work, facts = mined
    samples = list(work.dataset.samples())
    assert len(samples) == facts["mined"] > 20
    for sample in samples:
        assert sample.state is State.UNLABELLED
        assert sample.origin["licence"] == "CC0-1.0"
        assert str(sample.origin["source"]).startswith("corpus/")
        assert sample.columns["mine.reason"] in ("match", "look-alike", "explore")
        if sample.columns["mine.reason"] != "explore":
            explained = sample.columns["mine.explain"]
            assert 0 <= explained["match"] <= 1  # type: ignore[index, call-overload, operator]
            likeness, counter = explained["similarity"], explained["counter_similarity"]  # type: ignore[index, call-overload]
            expected = likeness - 0.5 * max(0, counter - likeness)  # type: ignore[operator]
            assert sample.columns["mine.score"] == pytest.approx(expected, abs=2e-4)
    reasons = Counter(s.columns["mine.reason"] for s in samples)
    assert reasons["explore"] == pytest.approx(len(samples) * 0.25, abs=1)
    assert max(Counter(s.columns["mine.category"] for s in samples if s.columns["mine.category"]).values()) <= 5


def test_a_pool_as_large_as_the_corpus_takes_everything_once_and_says_with_which_chance(
    world: Path, model: str, tmp_path: Path, policy: Policy
) -> None:
    for pool, taken in ((CORPUS * 2, CORPUS), (60, 60)):
        work = new_work(tmp_path / str(pool), policy)
        settings(world, model, pool=pool).run(work)
        samples = list(work.dataset.samples(images=False))
        assert len(samples) == taken
        explored = [s for s in samples if s.columns["mine.reason"] == "explore"]
        chances = {s.columns["mine.chance"] for s in explored}
        assert len(chances) == 1
        assert chances == {1.0} if pool > CORPUS else 0 < chances.pop() < 1


def test_no_sealed_image_and_no_copy_of_one_is_mined(mined: tuple[Work, dict[str, object]], world: Path) -> None:
    work, facts = mined
    sources = {str(s.origin["source"]) for s in work.dataset.samples(images=False)}
    assert not any("leak" in source for source in sources)
    assert facts["refused"]["sealed"] > 0  # type: ignore[index]


def test_a_damaged_file_is_counted_not_raised(mined: tuple[Work, dict[str, object]]) -> None:
    _, facts = mined
    assert (facts["images"], facts["failed"]) == (CORPUS + SEALED, 1)


def test_two_runs_mine_the_same_and_the_second_embeds_nothing(
    world: Path, model: str, tmp_path: Path, policy: Policy
) -> None:
    found = []
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        work = new_work(tmp_path / run, policy)
        facts = settings(world, model, embeddings=tmp_path / "vectors").run(work)
        found.append({s.id: s.columns for s in work.dataset.samples(images=False)})
    assert found[0] == found[1]
    assert facts["embedded"] == 0


def test_a_resumed_run_adds_what_was_chosen_before_the_kill(
    world: Path, model: str, tmp_path: Path, policy: Policy
) -> None:
    class Killed(Exception):
        pass

    def kill(key: str, samples: object, total: int | None = None) -> dict[str, int]:
        raise Killed

    work = new_work(tmp_path, policy)
    work.add = kill  # type: ignore[method-assign]
    with pytest.raises(Killed):
        settings(world, model).run(work)
    chosen = json.loads((tmp_path / "files" / "selection.json").read_text())["picks"]
    again = new_work(tmp_path, policy, seed=99)
    settings(world, model).run(again)
    assert {s.id for s in again.dataset.samples(images=False)} == {pick["id"] for pick in chosen}


def test_images_that_the_dataset_has_are_not_mined_again(
    world: Path, model: str, tmp_path: Path, policy: Policy
) -> None:
    work = new_work(tmp_path, policy)
    work.name = "import"
    ours = [image_id(image) for image in scenes(CORPUS)[:60]]
    work.add("ours", [NewSample(data=encode_png(image), origin={"source": "ours"}) for image in scenes(CORPUS)[:60]])
    work.name = "mine"
    facts = settings(world, model, per_category=3).run(work)
    mined = [s for s in work.dataset.samples(images=False) if "mine.reason" in s.columns]
    assert len(mined) == facts["mined"] > 0
    assert not {s.id for s in mined} & set(ours)


def test_only_what_is_new_since_the_last_time_is_looked_at(
    world: Path, model: str, tmp_path: Path, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(world, tmp_path / "world")
    grown = tmp_path / "world"
    first = new_work(tmp_path / "a", policy)
    settings(grown, model, embeddings=tmp_path / "e").run(first)
    killed = new_work(tmp_path / "k", policy)
    with monkeypatch.context() as patch:
        patch.setattr(Mine, "_samples", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            settings(grown, model, embeddings=tmp_path / "k", since="last").run(killed)
    assert not list((tmp_path / "k").rglob("mined.json")), "what was chosen and never added is to be looked at again"
    again = new_work(tmp_path / "b", policy)
    facts = settings(grown, model, embeddings=tmp_path / "e", since="last").run(again)
    assert (facts["mined"], facts["looked_at"], again.dataset.count()) == (0, 0, 0)
    for i, image in enumerate(scenes(CORPUS + SEALED + 30)[CORPUS + SEALED :]):
        (grown / "corpus" / f"new{i}.png").write_bytes(encode_png(image))
    work = new_work(tmp_path / "c", policy)
    facts = settings(grown, model, embeddings=tmp_path / "e", since="last", explore=0.3).run(work)
    assert facts["looked_at"] == 30
    sources = {str(s.origin["source"]) for s in work.dataset.samples(images=False)}
    assert len(sources) > 10
    assert all(source.startswith("corpus/new") for source in sources)


def test_the_truth_is_reported_and_changes_nothing(world: Path, model: str, tmp_path: Path, policy: Policy) -> None:
    truth = tmp_path / "truth.jsonl"
    rows = [
        {"id": image_id(image), "split": "corpus", "labels": [{"category": t.kind} for t in scene(i).things]}
        for i, image in enumerate(scenes(CORPUS))
    ]
    truth.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = []
    for name, given_ in (("with", truth), ("without", None)):
        (tmp_path / name).mkdir()
        work = new_work(tmp_path / name, policy)
        facts = settings(world, model, embeddings=tmp_path / "vectors", truth=given_).run(work)
        assert ("precision" in facts) == (given_ is not None)
        found.append({s.id: s.columns for s in work.dataset.samples(images=False)})
    assert found[0] == found[1]


def test_precision_counts_the_first_ranks_and_recall_what_was_picked(tmp_path: Path) -> None:
    lines = [{"id": str(i), "split": "corpus", "labels": [{"category": "knife"}] if i < 4 else []} for i in range(40)]
    lines.append({"id": "99", "split": "test", "labels": [{"category": "knife"}]})
    (tmp_path / "truth.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ranked = {"knife": ["0", "9", "1", *(str(i) for i in range(10, 27))]}
    report = precision_report(tmp_path / "truth.jsonl", ranked, [{"id": "0"}, {"id": "30"}, {"id": "99"}])
    assert report["knife"] == {
        "p10": 0.2,
        "p50": 0.1,
        "p100": 0.1,
        "prevalence": 0.1,
        "positives": 4,
        "found": 1,
        "recall": 0.25,
    }


CANDIDATE = Candidate(
    row=0,
    id="",
    key="",
    category="",
    prompt="",
    similarity=0,
    counter="",
    counter_similarity=0,
    score=0,
    match=0,
    counter_match=0,
    order=0,
    lead=0,
)


@given(
    st.lists(st.lists(st.integers(0, 15), unique=True), min_size=1, max_size=4),
    st.lists(st.integers(0, 6), min_size=4, max_size=4),
    st.sets(st.integers(0, 15)),
)
def test_quotas_are_filled_as_far_as_they_can_be_and_nobody_is_taken_twice(
    lists: list[list[int]], quotas: list[int], owned: set[int]
) -> None:
    candidates = [[replace(CANDIDATE, id=str(i)) for i in ids] for ids in lists]
    before = {str(i) for i in owned}
    taken = set(before)
    shares = [[c.id for c in share] for share in share_out(candidates, quotas, taken)]
    given_out = [id_ for share in shares for id_ in share]
    assert len(set(given_out)) == len(given_out)
    assert not before & set(given_out)
    assert taken == before | set(given_out)
    for ids, share, quota in zip(lists, shares, quotas, strict=False):
        assert share == [str(i) for i in ids if str(i) in share], "in the order of their rank"
        assert len(share) == quota or all(str(i) in taken for i in ids)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"explore": 1.0}, r"explore must lie in \[0, 1\), got 1.0"),
        ({"per_category": 0}, "per_category must be at least 1, got 0"),
        ({"counter_weight": -1}, "counter_weight must not be negative"),
        ({"index_recall": 0.0}, r"index_recall must lie in \(0, 1\], got 0.0"),
        ({"never_distance": 200}, r"max_distance must lie in \[0, 80\]"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Mine(corpus="x", **wrong)  # type: ignore[arg-type]


def test_an_empty_corpus_is_named(tmp_path: Path, model: str, work: Work) -> None:
    (tmp_path / "corpus").mkdir()
    with pytest.raises(InputError, match="holds no image that can be read"):
        Mine(corpus=str(tmp_path / "corpus"), model=model).run(work)


def test_copies_that_hashing_misses_are_found_by_what_they_show(work: Work, model: str) -> None:
    images = scenes(12)
    mirrored = [np.ascontiguousarray(image[:, ::-1]) for image in images[:4]]
    files = [encode_png(image) for image in images + mirrored]
    work.add("a", [NewSample(data=data, origin={"source": str(i)}) for i, data in enumerate(files)])
    vectors = open_encoder(model, "cpu").images(images + mirrored).astype(float).reshape(16, -1)
    cosine = (vectors @ vectors.T / 8)[np.triu_indices(16, 1)]
    highest = np.sort(cosine)[-3:]
    assert highest[1] - highest[0] > 1e-3, "the pairs must differ for this test to mean anything"
    assert Dedup(max_distance=0).run(work)["groups"] == 0
    facts = Dedup(max_distance=0, min_cosine=float(highest[0] + highest[1]) / 2, model=model).run(work)
    assert facts["groups"] in (1, 2), "exactly the two closest pairs are joined, which may share an image"
    assert facts["dropped"] == 2


def test_the_miniature_finds_what_it_is_asked_for(tmp_path: Path, policy: Policy) -> None:
    try:
        locate("starter:retrieval")
    except ModelError as error:
        pytest.skip(str(error))
    (tmp_path / "corpus").mkdir()
    shown: dict[str, set[str]] = {}
    for i in range(250):
        (tmp_path / "corpus" / f"{i}.png").write_bytes(encode_png(scene(i).image))
        shown[image_id(scene(i).image)] = {t.kind for t in scene(i).things}
    work = new_work(tmp_path, policy)
    Mine(corpus=str(tmp_path / "corpus"), per_category=8, rerank=3, hard_negatives=0, explore=0).run(work)
    for category in ("cigarette", "bottle", "pill", "dice"):
        found = [s.id for s in work.dataset.samples(images=False) if s.columns["mine.category"] == category]
        prevalence = sum(category in kinds for kinds in shown.values()) / len(shown)
        assert len(found) == 8
        assert sum(category in shown[id_] for id_ in found) >= 6 > 3 * 8 * prevalence


def test_archives_are_mined_like_folders_and_say_their_licence(
    world: Path, model: str, policy: Policy, tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "corpus.tar", "w") as archive:
        for path in sorted((world / "corpus").rglob("*.png")):
            told = b'{"license": "CC0-1.0", "url": "https://example.org/x"}'
            for name, data in ((path.name, path.read_bytes()), (f"{path.stem}.json", told)):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    work = new_work(tmp_path / "run", policy)
    told_facts = replace(settings(world, model), corpus=str(tmp_path / "corpus.tar")).run(work)
    work.events.close()
    assert told_facts["images"] == CORPUS
    assert told_facts["failed"] == 1  # the damaged one
    samples = list(work.dataset.samples(images=False))
    assert len(samples) >= 20
    assert {s.origin["licence"] for s in samples} == {"CC0-1.0"}
    assert {s.origin["url"] for s in samples} == {"https://example.org/x"}
