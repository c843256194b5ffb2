"""What people said in one round of mining moves the next one."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tilth.claims import Claim
from tilth.data.dataset import Dataset
from tilth.encoders.families import open_encoder
from tilth.engine.work import Work
from tilth.events import Events
from tilth.images import encode_png
from tilth.mining.corpora.corpus import FolderCorpus
from tilth.mining.search.feedback import Feedback, likeness
from tilth.mining.search.mine import Mine
from tilth.mining.vectors.embed import embed
from tilth.mining.vectors.store import Store
from tilth.policy import Policy
from tilth.samples import NewSample
from tilth.starter.world.scene import Spec, render

KINDS = ("knife", "spoon", "cup", "book")
EACH = 16


def picture(kind: str, index: int) -> np.ndarray:
    rng = np.random.default_rng((KINDS.index(kind), index, 5))
    color = ("red", "green", "blue", "teal")[index % 4]
    surface = ("wood", "brick", "sky", "tile")[index // 4 % 4]
    return render(Spec(things=((kind, color, ""),), surface=surface, style="photo"), rng, side=96).image


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("feedback") / "corpus"
    folder.mkdir()
    for kind in KINDS:
        for i in range(EACH):
            (folder / f"{kind}-{i:02d}.png").write_bytes(encode_png(picture(kind, i)))
    return folder


@pytest.fixture
def judged(tmp_path: Path, policy: Policy, corpus: Path) -> Work:
    """A dataset in which people accepted four knives and rejected four spoons that were mined as knives."""
    work = Work(
        name="mine", dataset=Dataset(tmp_path / "dataset"), policy=policy, folder=tmp_path / "mine", events=Events()
    )
    say = partial(Claim, source="human:a", asked=("knife",))
    knife = say(category="knife", box_xyxy=(10, 10, 60, 60))
    samples = [
        NewSample(
            data=(corpus / f"{kind}-{i:02d}.png").read_bytes(),
            origin={"source": f"corpus/{kind}-{i:02d}.png"},
            claims=(knife if kind == "knife" else say(says="empty"),),
            columns={"mine.category": "knife"},
        )
        for kind in ("knife", "spoon")
        for i in range(4)
    ]
    replace(work, name="earlier").add("earlier", samples)
    return work


def test_likeness_is_one_for_itself_and_looks_for_the_best_vector() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(4, 3, 8))
    vectors = (vectors / np.linalg.norm(vectors, axis=2, keepdims=True)).astype(np.float16)
    found = likeness(vectors, vectors)
    assert np.diag(found) == pytest.approx(np.ones(4), abs=2e-3)
    assert (found <= 1.01).all()
    assert likeness(vectors, vectors[:, ::-1]) == pytest.approx(found, abs=1e-3)  # the order of vectors does not matter
    alone = np.concatenate([likeness(vectors[i : i + 1], vectors) for i in range(4)])
    assert alone == pytest.approx(found, abs=1e-6)


def test_neighbours_of_accepted_images_rise_and_those_of_rejected_ones_fall(judged: Work, corpus: Path) -> None:
    encoder = open_encoder("starter:retrieval", "cpu")
    store = Store(judged.folder, model="x", digest=encoder.digest, queries=encoder.queries, width=encoder.width)
    place = FolderCorpus(corpus)
    embed(place, encoder, store, judged.events)
    feedback = Feedback(judged.dataset, place, store)
    assert (len(feedback.accepted["knife"]), len(feedback.rejected["knife"])) == (4, 4)
    keys = [key for key, _ in store.items()]
    unseen = {
        kind: np.array([i for i, k in enumerate(keys) if k.startswith(kind) and int(k[-6:-4]) >= 4]) for kind in KINDS
    }
    said = {kind: feedback("knife", rows) for kind, rows in unseen.items()}
    above = said["knife"][:, None] > said["spoon"][None]
    assert above.mean() > 0.9
    assert said["spoon"].mean() < said["cup"].mean() < said["knife"].mean()
    assert (feedback("dice", unseen["cup"]) == 0).all()  # nobody said anything of dice
    assert feedback("knife", unseen["cup"][:0]).shape == (0,)


def test_an_image_in_which_nobody_looked_for_a_category_is_not_one_of_its_rejected(judged: Work, corpus: Path) -> None:
    encoder = open_encoder("starter:retrieval", "cpu")
    store = Store(judged.folder, model="x", digest=encoder.digest, queries=encoder.queries, width=encoder.width)
    place = FolderCorpus(corpus)
    embed(place, encoder, store, judged.events)
    samples = [
        NewSample(
            data=(corpus / f"cup-{i:02d}.png").read_bytes(),
            origin={"source": f"corpus/cup-{i:02d}.png"},
            claims=(Claim(says="empty", source="human:a", asked=("dice",)),),
            columns={"mine.category": "knife"},
        )
        for i in range(4)
    ]
    replace(judged, name="other").add("other", samples)
    feedback = Feedback(judged.dataset, place, store)
    assert (len(feedback.accepted["knife"]), len(feedback.rejected["knife"])) == (4, 4)


def test_mining_says_what_feedback_did(judged: Work, corpus: Path) -> None:
    told = Mine(corpus=str(corpus), per_category=4, hard_negatives=0, explore=0).run(judged)
    assert told["judged_before"] == {"accepted": {"knife": 4}, "rejected": {"knife": 4}}
    mined = [s for s in judged.dataset.samples(images=False) if s.columns.get("mine.reason") == "match"]
    explained = [s.columns["mine.explain"]["feedback"] for s in mined if s.columns["mine.category"] == "knife"]  # type: ignore[index, call-overload]
    assert explained
    assert all(value != 0 for value in explained)
    judged.events.close()
