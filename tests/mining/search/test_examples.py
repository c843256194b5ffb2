"""A category is found by pictures of it, and as many images are mined as each category asks for."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from mining_parts import saved, scene

from tilth.claims import Claim
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.events import Events
from tilth.images import encode_png, image_id
from tilth.mining.search.mine import Mine
from tilth.policy import Policy, load_policy
from tilth.samples import NewSample

CORPUS = 260

POLICY = """
policy: test
version: 1
categories:
- name: dice
  definition: dice
  prompts: [wug]
  examples: [pictures]
- name: bottle
  definition: bottles
  prompts: [bottle]
"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, set[str]]]:
    """A corpus, and what is in its images."""
    folder = tmp_path_factory.mktemp("corpus")
    kinds: dict[str, set[str]] = {}
    for i in range(CORPUS):
        image = scene(i).image
        (folder / f"{i}.png").write_bytes(encode_png(image))
        kinds[image_id(image)] = {t.kind for t in scene(i).things}
    return folder, kinds


@pytest.fixture
def asked(tmp_path: Path) -> Policy:
    """A policy with 16 pictures of dice, a word for them that means nothing, and a word for bottles."""
    (tmp_path / "pictures").mkdir()
    pictures = (scene(i) for i in range(5000, 9000))
    for n, picture in zip(range(16), (p for p in pictures if "dice" in {t.kind for t in p.things}), strict=False):
        (tmp_path / "pictures" / f"{n}.png").write_bytes(encode_png(picture.image))
    (tmp_path / "policy.yaml").write_text(POLICY)
    return load_policy(tmp_path / "policy.yaml")


def new_work(folder: Path, policy: Policy) -> Work:
    from tilth.data.dataset import Dataset

    return Work(
        name="mine", dataset=Dataset(folder / "dataset"), policy=policy, folder=folder / "files", events=Events()
    )


def test_what_has_no_word_is_found_by_pictures(
    tmp_path: Path, shown: tuple[Path, dict[str, set[str]]], asked: Policy
) -> None:
    folder, kinds = shown
    found = {}
    for weight in (0.0, 10.0):
        work = new_work(tmp_path / str(weight), asked)
        facts = Mine(
            corpus=str(folder),
            quotas={"dice": 20, "bottle": 0},
            explore=0,
            example_weight=weight,
            similarity_weight=100.0,
            embeddings=tmp_path / "embeddings",
        ).run(work)
        assert facts["examples"] == {"dice": 16}
        samples = list(work.dataset.samples(images=False))
        assert Counter(s.columns["mine.category"] for s in samples) == {"dice": 20}
        found[weight] = sum("dice" in kinds[s.id] for s in samples)
        assert all(abs(s.columns["mine.explain"]["examples"]) <= 1 for s in samples)  # type: ignore[index, call-overload, arg-type]
    prevalence = sum("dice" in kind for kind in kinds.values()) / CORPUS
    assert found[10.0] > found[0.0]
    assert found[10.0] >= 2.5 * 20 * prevalence


def test_reviewed_images_serve_as_examples(
    tmp_path: Path, shown: tuple[Path, dict[str, set[str]]], asked: Policy
) -> None:
    work = new_work(tmp_path / "run", asked)
    new = []
    for path in sorted((tmp_path / "pictures").glob("*.png"))[:5]:
        claim = Claim(category="bottle", box_xyxy=(1, 1, 20, 20), score=1.0, source="human:a")
        new.append(NewSample(data=path.read_bytes(), origin={"source": path.name}, claims=(claim,)))
    work.add("seed", new)
    facts = Mine(corpus=str(shown[0]), per_category=4, few_shot=3, embeddings=tmp_path / "embeddings").run(work)
    assert facts["examples"] == {"dice": 16, "bottle": 3}


def test_a_model_without_words_is_asked_by_pictures(
    tmp_path: Path, shown: tuple[Path, dict[str, set[str]]], asked: Policy
) -> None:
    model = str(saved("dinov2", tmp_path / "model"))
    quotas = {"dice": 12, "bottle": 0}
    mine = Mine(corpus=str(shown[0]), model=model, quotas=quotas, explore=0, embeddings=tmp_path / "embeddings")
    with pytest.raises(InputError, match="knows no words, and there are no example images of bottle"):
        mine.run(new_work(tmp_path / "first", asked))
    picture = tmp_path / "pictures" / "0.png"
    dice = asked.categories[0].model_copy(update={"examples": (picture,)})
    only_dice = Policy(policy="test", version=1, categories=(dice,))
    (tmp_path / "corpus").mkdir()
    for path in shown[0].iterdir():
        (tmp_path / "corpus" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "corpus" / "twin.png").write_bytes(picture.read_bytes())
    work = new_work(tmp_path / "second", only_dice)
    Mine(corpus=str(tmp_path / "corpus"), model=model, per_category=12, explore=0, embeddings=tmp_path / "e").run(work)
    samples = {str(s.origin["source"]): s for s in work.dataset.samples(images=False)}
    first = samples["corpus/twin.png"].columns
    assert first["mine.rank"] == 1
    assert math.isclose(first["mine.explain"]["examples"], 1, abs_tol=0.01)  # type: ignore[index, call-overload, arg-type]


@pytest.mark.parametrize(
    ("mine", "says"),
    [
        ({"quotas": {"spoons": 3}}, "quotas: no pictured category spoons; there are dice, bottle"),
        ({"quotas": {"dice": 0, "bottle": 0}}, "every category is 0"),
    ],
)
def test_quotas_that_make_no_sense_are_named(
    tmp_path: Path, shown: tuple[Path, dict[str, set[str]]], asked: Policy, mine: dict[str, object], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        Mine(corpus=str(shown[0]), embeddings=tmp_path / "e", **mine).run(new_work(tmp_path, asked))  # type: ignore[arg-type]


def test_an_example_that_is_no_image_is_named(
    tmp_path: Path, shown: tuple[Path, dict[str, set[str]]], asked: Policy
) -> None:
    (tmp_path / "pictures" / "00.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"pictures.00\.png: example of dice: not an image"):
        Mine(corpus=str(shown[0]), embeddings=tmp_path / "e").run(new_work(tmp_path, asked))
    for path in (tmp_path / "pictures").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="no example image of dice here"):
        Mine(corpus=str(shown[0]), embeddings=tmp_path / "e").run(new_work(tmp_path, asked))


def test_likeness_is_that_of_its_formula() -> None:
    from tilth.mining.search.examples import Examples

    rng = np.random.default_rng(0)
    examples = Examples.__new__(Examples)
    centre, prototype, vectors = rng.normal(size=(4, 8)), rng.normal(size=(4, 8)), rng.normal(size=(5, 4, 8))
    prototype /= np.linalg.norm(prototype, axis=1, keepdims=True)
    examples._centre, examples._prototypes = centre.astype(np.float32), {"a": prototype.astype(np.float32)}
    expected = [
        np.mean([(v[s] - centre[s]) @ prototype[s] / np.linalg.norm(v[s] - centre[s]) for s in range(4)])
        for v in vectors
    ]
    np.testing.assert_allclose(examples.likeness("a", vectors.astype(np.float16)), expected, atol=2e-3)
