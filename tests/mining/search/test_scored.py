"""A corpus is asked by a few-shot classifier: what it says finds what words do not, and is what the classifier itself says."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mining_parts import new_store, scene, unit

from tilth.claims import Claim
from tilth.data.dataset import Dataset
from tilth.encoders.families import open_encoder
from tilth.encoders.few_shot import FewShotScores, Fitted
from tilth.engine.work import Work
from tilth.errors import InputError, ModelError
from tilth.events import Events
from tilth.images import encode_png, image_id
from tilth.mining.search.mine import Mine
from tilth.mining.search.scored import Scored
from tilth.policy import Policy, load_policy
from tilth.samples import NewSample
from tilth.train.judge.predict import Predictor
from tilth.train.learn.few_shot import FewShot

CORPUS, SHOWN = 120, 16
POLICY = """
policy: test
version: 1
categories:
- name: dice
  definition: dice
  prompts: [wug]
- name: bottle
  definition: bottles
  prompts: [bottle]
"""


def work_in(folder: Path, policy: Policy) -> Work:
    (folder / "files").mkdir(parents=True)
    return Work(
        name="mine", dataset=Dataset(folder / "dataset"), policy=policy, folder=folder / "files", events=Events()
    )


def reviewed(number: int) -> NewSample:
    kinds = {thing.kind for thing in scene(number).things}
    common = {"source": "human:a", "asked": ("dice", "bottle")}
    claims = tuple(Claim(category=name, **common) for name in ("dice", "bottle") if name in kinds)  # type: ignore[arg-type]
    claims = claims or (Claim(says="empty", **common),)  # type: ignore[arg-type]
    return NewSample(data=encode_png(scene(number).image), origin={"source": f"r{number}"}, claims=claims)


def test_a_classifier_of_a_few_examples_finds_what_no_word_finds(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY)
    policy, corpus = load_policy(tmp_path / "policy.yaml"), tmp_path / "corpus"
    corpus.mkdir()
    kinds = {}
    for i in range(CORPUS):
        image = scene(i).image
        (corpus / f"{i}.png").write_bytes(encode_png(image))
        kinds[image_id(image)] = {thing.kind for thing in scene(i).things}
    shows = [i for i in range(5000, 9000) if "dice" in {thing.kind for thing in scene(i).things}][:SHOWN]
    first = work_in(tmp_path / "fitted", policy)
    first.add("seed", [reviewed(i) for i in [*shows, *range(9000, 9000 + SHOWN)]])
    few = replace(first, name="few", folder=tmp_path / "few")
    FewShot().run(few)
    found = {}
    for classifier in ("", "few"):
        work = work_in(tmp_path / f"mined{len(found)}", policy)
        work.artifacts |= few.artifacts
        Mine(
            corpus=str(corpus), classifier=classifier, quotas={"dice": 12, "bottle": 0}, explore=0, hard_negatives=0,
            embeddings=tmp_path / "embeddings",
        ).run(work)  # fmt: skip
        samples = list(work.dataset.samples())
        found[classifier] = {s.id for s in samples if "dice" in kinds[s.id]}
        assert len(samples) == 12
    assert len(found["few"]) > len(found[""])
    said = {s.id: s.columns["mine.explain"]["classifier"] for s in samples}  # type: ignore[index, call-overload]
    own = Predictor(few.artifact("few"), None, "cpu")([s.pixels() for s in samples])
    assert [said[s.id] for s in samples] == pytest.approx([logits["dice"] for logits, _ in own], abs=0.3)
    ranks = [s.columns["mine.rank"] for s in samples]
    assert [said[s.id] for _, s in sorted(zip(ranks, samples, strict=True))] == sorted(said.values(), reverse=True)


def scores(k: int, q: int, d: int) -> FewShotScores:
    rng = np.random.default_rng(0)
    flat, texts = rng.normal(size=(k, q * d)).astype(np.float32), unit(rng, k, d).astype(np.float32)
    examples = unit(rng, 3, q * d).astype(np.float32)
    fitted = Fitted(
        weight=flat, bias=np.zeros(k, np.float32), examples=examples, says=np.ones((3, k), np.float32), sharpness=3.0,
        words=np.ones(k, np.float32),
    )  # fmt: skip
    return FewShotScores(labels=("a", "b"), base="m", fitted=fitted, texts=texts)


def test_the_best_are_found_in_one_pass_without_what_is_forgotten_or_was_seen_before(tmp_path: Path) -> None:
    rng, few = np.random.default_rng(1), scores(2, 4, 16)
    store, vectors = new_store(tmp_path, shard_rows=30), unit(rng, 100, 4, 16)
    store.append([(str(i), "s") for i in range(100)], vectors)
    all_ = few(vectors)
    for first, gone in ((0, []), (40, [50, 90])):
        store.forgotten = np.array(gone, np.int64)
        rows = np.setdiff1d(np.arange(first, 100), gone)
        scored = Scored(few, store, 12, first)
        for k, label in enumerate(few.labels):
            expected = rows[np.argsort(-all_[rows, k], kind="stable")][:12]
            assert scored.best(label).tolist() == expected.tolist()
            assert scored(label, expected) == pytest.approx(all_[expected, k], abs=1e-4)
    assert "c" not in scored


def test_what_is_no_classifier_of_this_model_is_said(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY)
    (tmp_path / "corpus").mkdir()
    for i in range(3):
        (tmp_path / "corpus" / f"{i}.png").write_bytes(encode_png(scene(i).image))
    work = work_in(tmp_path / "work", load_policy(tmp_path / "policy.yaml"))

    def mine(classifier: Path | str) -> None:
        mining = Mine(corpus=str(tmp_path / "corpus"), classifier=str(classifier), embeddings=tmp_path / "e")
        mining.run(work)

    with pytest.raises(InputError, match="no artifact 'few'"):
        mine("few")
    folder = tmp_path / "classifier"
    folder.mkdir()
    about = {"labels": ["dice"], "base": "model:other@123"}
    (folder / "tilth.json").write_text(json.dumps(about))
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(ModelError, match=r"a few-shot classifier is wanted.*'vit'"):
        mine(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "tilth-few-shot"}))
    with pytest.raises(ModelError, match="no few-shot classifier"):
        mine(folder)
    from safetensors.numpy import save_file

    width = open_encoder("starter:retrieval", "cpu").width
    names = ("linear.weight", "linear.bias", "examples", "says", "words", "texts")
    save_file(
        {**{n: np.zeros((1, width), np.float32) for n in names}, "sharpness": np.zeros((), np.float32)},
        folder / "model.safetensors",
    )
    with pytest.raises(
        InputError, match=r"fitted to vectors of model:other@123, and these are of model:starter:retrieval"
    ):
        mine(folder)
