"""Generated images are kept only as far as models that learn from them are surely better on real images."""

import json
import re
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from places import POLICY, ROOT

from tilth.claims import Claim
from tilth.data.dataset import Dataset
from tilth.engine.recipe import load_recipe
from tilth.engine.work import Work
from tilth.errors import RecipeError
from tilth.images import encode_png
from tilth.pipeline.run import Run
from tilth.pipeline.steps.prove import Prove
from tilth.pipeline.table import step_table
from tilth.samples import RANK, NewSample
from tilth.starter.world.files import write_world
from tilth.starter.world.scene import UNSAFE_KINDS, Spec, render
from tilth.train.learn.classifier import TrainClassifier
from tilth.train.measure.gains import Amount, Gain, choose, compare, gains, too_few
from tilth.train.measure.judged import Judged

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")

ASKED = (*UNSAFE_KINDS, "text_area")
QUICK = TrainClassifier(steps=16, batch_size=8, method="probe", lr=0.01, patience=0, spots=0, image_side=48)


def scene(seed: int, kind: str, split: str, *, made: bool = False, called: str = "", style: str = "photo") -> NewSample:
    """Draw one thing; `called` is what its label says where that is wrong."""
    rng = np.random.default_rng(seed)
    colour, surface = rng.choice(["red", "blue", "green"]), rng.choice(["tile", "grass", "wood"])
    drawn = render(Spec(things=((kind, str(colour), ""),), surface=str(surface), style=style), rng)
    claim = Claim(says="empty", source="human:test", asked=ASKED)
    if (label := called or kind) in ASKED:
        claim = replace(claim, says="label", category=label, box_xyxy=drawn.things[0].box_xyxy)
    origin = {"source": f"{split}/{seed}", "step": "a"} | ({"prompt": f"a {kind}", "category": kind} if made else {})
    columns = {"split": split, "style": style} | ({RANK: seed} if made else {})
    return NewSample(data=encode_png(drawn.image), origin=origin, claims=(claim,), columns=columns)


def real(work: Work) -> None:
    """Twenty images to learn from, none of which shows a knife, 80 to judge by, and a sealed test."""
    work.add("train", [scene(i, ("dice", "book")[i % 2], "train") for i in range(20)])
    work.add("val", [scene(1000 + i, ("knife", "dice", "book", "spoon")[i % 4], "val") for i in range(80)])
    work.add("test", [scene(2000 + i, "knife", "test") for i in range(5)])


def made(work: Work, *, called: str = "") -> list[NewSample]:
    """Add 20 generated knives, all of them called something else where the generator was wrong."""
    drawn = [scene(3000 + i, "knife", "train", made=True, called=called) for i in range(20)]
    work.add("made", drawn)
    return drawn


def scored(good: float, *, seed: int, images: int = 200, noise: float = 0.3) -> Judged:
    """Make up the scores of a model for two categories; the better it is, the farther apart they are."""
    fixed, rng = np.random.default_rng(0), np.random.default_rng(seed)
    truth = fixed.random((images, 2)) < 0.3
    luck = fixed.normal(0, noise, truth.shape) + rng.normal(0, noise / 3, truth.shape)
    scores = 1 / (1 + np.exp(-(np.where(truth, good, -good) + luck)))
    return Judged(scores=scores, truth=truth, sure=np.ones_like(truth), thresholds=np.full(2, 0.5))


NAMES = ("knife", "pill")
PARTS = ["photo", "neon"] * 100


def proved(goods: dict[float, float], spoil: tuple[float, str] = (0, "")) -> list[Amount]:
    """Compare made-up models that are as good as said at each ratio, one of which ranks a slice the wrong way round."""
    models = {ratio: [scored(good, seed=int(100 * ratio) + s) for s in range(3)] for ratio, good in goods.items()}
    ratio, where = spoil
    if where == "pill":
        models[ratio] = [replace(m, scores=np.stack([m.scores[:, 0], 1 - m.scores[:, 1]], 1)) for m in models[ratio]]
    elif where:
        turned = np.array(PARTS)[:, None] == where
        models[ratio] = [replace(m, scores=np.where(turned, 1 - m.scores, m.scores)) for m in models[ratio]]
    return compare(models, {ratio: int(100 * ratio) for ratio in goods}, NAMES, PARTS, "mean_ap")


def test_the_ratio_that_gains_most_is_chosen_and_none_where_all_harm() -> None:
    chosen, why = choose(proved({0: 0.1, 0.25: 0.15, 0.5: 0.3, 1.0: 0.2}), "mean_ap")
    assert chosen is not None
    assert (chosen.ratio, chosen.images) == (0.5, 50)
    assert why.startswith("mean average precision gains +")
    chosen, why = choose(proved({0: 0.2, 0.5: 0.1, 1.0: 0.02}), "mean_ap")
    assert chosen is None
    assert "gains nothing for sure: -" in why
    chosen, _ = choose(proved({0: 0.2, 0.5: 0.2, 1.0: 0.2}), "mean_ap")
    assert chosen is None, "what changes nothing is not kept"


@pytest.mark.parametrize(("where", "told"), [("pill", "category pill"), ("neon", "slice neon")])
def test_what_gains_in_all_and_loses_a_part_is_not_chosen(where: str, told: str) -> None:
    amounts = proved({0: 0.02, 0.5: 0.1, 1.0: 5.0}, spoil=(1.0, where))
    whole = [replace(amount, gain=Gain(mean=0.3, low=0.2, high=0.4)) for amount in amounts]
    assert [*whole[1].worse] == [told]
    assert not whole[0].worse
    chosen, _ = choose(whole, "mean_ap")
    assert chosen is not None
    assert chosen.ratio == 0.5, "the other one harms nothing"
    chosen, why = choose(whole[1:], "mean_ap")
    assert chosen is None
    assert f"but it is worse on {told}" in why


def test_an_interval_holds_what_chance_in_images_and_in_training_would_bring() -> None:
    """Of models that are equally good, hardly any amount seems to help; of surely better ones, nearly all do."""
    falsely = rightly = 0
    for turn in range(30):
        equal = [[scored(0.2, seed=1000 * turn + 10 * arm + s) for s in range(3)] for arm in range(3)]
        falsely += any(g.low > 0 for g in gains(equal[0], {0.5: equal[1], 1.0: equal[2]}, "mean_ap").values())
        better = [scored(0.3, seed=1000 * turn + 50 + s) for s in range(3)]
        rightly += gains(equal[0], {0.5: better}, "mean_ap")[0.5].low > 0
    assert falsely <= 3
    assert rightly >= 28


def test_seeds_that_disagree_tell_less_than_seeds_that_agree() -> None:
    agree = gains([scored(0.1, seed=s) for s in range(3)], {1.0: [scored(0.3, seed=s) for s in range(3)]}, "mean_ap")[
        1.0
    ]
    apart = [scored(good, seed=s) for s, good in enumerate((0.02, 0.3, 0.8))]
    disagree = gains([scored(0.1, seed=s) for s in range(3)], {1.0: apart}, "mean_ap")[1.0]
    assert agree.low > 0
    assert disagree.mean > 0 > disagree.low


def test_too_few_labels_tell_nothing() -> None:
    judged = scored(1, seed=0)
    assert too_few(judged, NAMES, "mean_ap") == ""
    unseen = replace(judged, sure=np.zeros_like(judged.sure))
    told = "of the real validation images that people labelled 0 show something, and 0 of 2 categories are shown by 5"
    assert told in too_few(unseen, NAMES, "mean_ap")
    all_shown = replace(judged, truth=np.ones_like(judged.truth))
    assert "200 show something, and 0 of 2" in too_few(all_shown, NAMES, "mean_ap"), (
        "there is nothing to tell them from"
    )
    half = replace(judged, truth=judged.truth | np.array([False, True]))
    assert too_few(half, NAMES, "mean_ap") == ""
    assert "0 real validation images are known to be safe" in too_few(half, NAMES, "recall_at_fpr05")


def test_what_helps_is_kept_down_to_the_ratio_and_a_killed_step_goes_on(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    real(work)
    images = made(work)
    step = Prove(classifier=QUICK, ratios=(0.15,))
    trained: list[str] = []
    learn = TrainClassifier.run

    def killed(self: TrainClassifier, inner: Work) -> object:
        trained.append(inner.name)
        if len(trained) == 4:
            raise KeyboardInterrupt
        return learn(self, inner)

    monkeypatch.setattr(TrainClassifier, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        step.run(work)
    kept = {path: path.stat().st_mtime_ns for path in work.folder.rglob("predictions.jsonl")}
    facts = dict(step.run(work))
    assert len(kept) == 3
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items()), "what is done is not done again"
    assert trained == [
        f"test.{name}.classifier" for name in ("0-0", "0.15-0", "0-1", "0.15-1", "0.15-1", "0-2", "0.15-2")
    ]
    assert facts["ratio"] == 0.15, facts["reason"]
    assert (facts["made"], facts["kept"], facts["dropped"]) == (20, 15, 5)
    gain = facts["gain_by_ratio"]["0.15"]
    assert 0 < gain["ci95"][0] < gain["mean"] < gain["ci95"][1]
    assert facts["score_by_ratio"]["0.15"] - facts["score_by_ratio"]["0"] == pytest.approx(gain["mean"], abs=2e-4)
    left = [sample for sample in work.dataset.samples(dropped=True, images=False) if sample.drops]
    assert {s.id for s in left} == {s.identify()[0] for s in images[15:]}, "those that were judged worst"
    assert {reason for s in left for _, reason in s.drops} == {"more than 0.15 for one real image helps no more"}
    asked = {json.loads(line)["id"] for path in kept for line in path.read_text().splitlines()}
    assert asked == {s.id for s in work.dataset.samples("split = 'val'", images=False)}
    assert not (work.dataset.root / "opened.jsonl").exists(), "the sealed test stays sealed"
    assert not [*work.folder.rglob("*.safetensors")], "no model is left lying about"


def test_what_teaches_the_wrong_thing_is_dropped_and_can_be_had_again(work: Work) -> None:
    real(work)
    made(work, called="dice")
    before = work.dataset.at.number
    facts = Prove(classifier=QUICK, ratios=(0.25,)).run(work)
    assert (facts["kept"], facts["dropped"], facts["ratio"]) == (0, 20, 0.0)
    assert str(facts["reason"]).startswith("mean average precision gains nothing for sure: -")
    assert work.dataset.count("made") == 0
    assert work.dataset.count("made", dropped=True) == 20
    assert work.dataset.checkout(before).count("made") == 20


def test_copies_of_real_images_and_too_few_labels_drop_all_without_any_training(work: Work) -> None:
    work.add("train", [scene(i, ("dice", "book")[i % 2], "train") for i in range(20)])
    images = made(work)
    told = Prove(classifier=QUICK).run(work)
    assert (told["kept"], told["val_images"]) == (0, 0)
    assert str(told["reason"]).startswith("nothing can be told")
    again = replace(work, name="again", dataset=work.dataset.checkout(work.dataset.at.parent))
    again.add("val", [scene(1000 + i, ("knife", "dice", "book", "spoon")[i % 4], "val") for i in range(80)])
    first = scene(0, "dice", "train")
    again.add("copy", [replace(images[0], data=shifted(first.data))])
    told = Prove(classifier=QUICK).run(again)
    assert told["copies"] == {"images": 1, "share": round(1 / 21, 5), "allowed": 0.001}
    assert "1 of 21 generated images are copies of real ones, 4.76%, allowed 0.10%" in str(told["reason"])
    assert not [*work.folder.rglob("predictions*")]


def shifted(data: bytes) -> bytes:
    """Make a picture a little brighter."""
    from tilth.images import decode

    return encode_png(np.minimum(decode(data).astype(int) + 3, 255).astype(np.uint8))


def test_mistakes_in_a_recipe_are_told_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"policy: {POLICY}\nsteps:\n  - prove: {{ratios: [0.5, 1], detector: {{steps: 5}}, classifier: null}}\n"
    )
    step = load_recipe(path, step_table()).steps["prove"]
    assert step.models() == ("starter:detector",)
    path.write_text(
        f"policy: {POLICY}\nsteps:\n  - prove: {{seeds: 2}}\n  - as: b\n    prove: {{classifier: {{stepz: 5}}}}\n"
    )
    with pytest.raises(RecipeError) as told:
        load_recipe(path, step_table())
    assert "recipe.yaml:3: steps[0].prove: seeds must be at least 3, as fewer tell nothing of chance, got 2" in str(
        told.value
    )
    assert "stepz" in str(told.value)


def test_the_recipe_of_the_page_runs_from_drawing_to_proof(tmp_path: Path) -> None:
    """The steps that docs/generate.md shows, on a small world, with fewer images; nobody labelled enough to tell anything."""
    page = (ROOT / "docs" / "generate.md").read_text()
    shown = re.search(r"(?m)^    - generate: .*\n(?:    .*\n)+", page)
    assert shown
    text = re.sub(r"count: \d+", "count: 6", textwrap.dedent(shown[0]))
    world = tmp_path / "world"
    write_world(world, labelled=24, corpus=0, test=0, workers=1)
    first = f"- import: {{path: '{world / 'labelled'}', format: coco, empty_means: confirmed_empty}}\n- split: {{val_share: 0.2}}\n"
    path = tmp_path / "recipe.yaml"
    path.write_text(f"policy: {POLICY}\nsteps:\n{textwrap.indent(first + text, '  ')}")
    run = Run(load_recipe(path, step_table()), tmp_path / "run")
    run.execute()
    facts = {name: record.facts for name, record in run.records.items()}
    assert facts["generate"]["made"] == 6
    assert facts["judge"]["kept"] + facts["judge"]["dropped"] == 6  # type: ignore[operator]
    assert facts["generate.again"]["planned"] == min(6, int(str(facts["judge"]["dropped"])))
    assert str(facts["prove"]["reason"]).startswith(("nothing can be told", "there is no generated image"))
    assert facts["prove"]["kept"] == 0
    dataset = Dataset(tmp_path / "run" / "dataset")
    assert dataset.count("made") == 0
    drops = [reason for s in dataset.samples("made", dropped=True, images=False) for _, reason in s.drops]
    assert len(drops) == dataset.count("made", dropped=True), "each with one reason"
    assert "Do the generated images help?" in (tmp_path / "run" / "report.html").read_text()
