"""What was generated is judged before it counts: broken, copied, unlike its words, not what a classifier sees, or there already."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from tilth.claims import Claim, Json, State
from tilth.encoders import families
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.images import decode, encode_png
from tilth.mining.copies.hash import Hash
from tilth.samples import RANK, NewSample, Sample
from tilth.starter.world.scene import UNSAFE_KINDS, Spec, render
from tilth.synth.check import look
from tilth.synth.check.adherence import Adherence
from tilth.synth.check.judging import Limits, decide
from tilth.synth.check.near import Real, Seen
from tilth.synth.draw.generate import Generate
from tilth.synth.plan.again import Tried
from tilth.synth.plan.prompts import Words
from tilth.train.learn.classifier import TrainClassifier
from tilth.train.learn.examples import made_for

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")

COLOURS, SURFACES = ("red", "blue", "green", "yellow"), ("tile", "grass", "wood")


def scene(seed: int, kind: str, style: str = "photo") -> tuple[bytes, tuple[float, float, float, float]]:
    rng = np.random.default_rng(seed)
    spec = Spec(things=((kind, str(rng.choice(COLOURS)), ""),), surface=str(rng.choice(SURFACES)), style=style)
    drawn = render(spec, rng)
    return encode_png(drawn.image), drawn.things[0].box_xyxy


def made(
    seed: int, asked: str, *, shows: str = "", score: float = 0.9, data: bytes = b"", style: str = "photo", parents: tuple[str, ...] = ()
) -> NewSample:  # fmt: skip
    """Draw an image that was asked for as one thing, and in which grounding saw that; it may show another."""
    drawn, box = scene(seed, shows or asked, style)
    claim = Claim(category=asked, box_xyxy=box, score=score, source="model:starter:grounding@0")
    origin: dict[str, Json] = {"prompt": f"a {asked}, {seed}", "category": asked, "style": style, "parents": [*parents]}
    return NewSample(data=data or drawn, origin=origin, claims=(claim,), columns={"style": style})


def real(seed: int, kind: str) -> NewSample:
    data, box = scene(seed, kind)
    claim = Claim(category=kind, box_xyxy=box, source="human:test", asked=UNSAFE_KINDS)
    return NewSample(data=data, origin={"source": str(seed)}, claims=(claim,), columns={"split": "train"})


def altered(sample: NewSample, by: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]]) -> bytes:
    return encode_png(np.clip(by(decode(sample.data).astype(int)), 0, 255).astype(np.uint8))


def reasons(work: Work) -> dict[str, str]:
    return {s.id: s.drops[0][1] if s.drops else "" for s in work.dataset.samples("made", dropped=True, images=False)}


def id_of(sample: NewSample) -> str:
    return sample.identify()[0]


def test_black_grey_and_noisy_images_are_broken(work: Work) -> None:
    fine = made(0, "knife")
    shape, rng = decode(fine.data).shape, np.random.default_rng(0)
    pixels = {
        "black": np.zeros(shape, np.uint8),
        "of one colour": np.full(shape, 128, np.uint8),
        "noise": rng.integers(0, 256, shape, np.uint8),
    }
    work.add("a", [fine, *(made(1, "knife", data=encode_png(image)) for image in pixels.values())])
    facts = Adherence(encoder="").run(work)
    assert facts["reasons"] == dict.fromkeys(pixels, 1)
    assert (facts["kept"], facts["dropped"]) == (1, 3)


def test_what_matches_its_words_least_goes_and_a_threshold_needs_no_model(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [made(i, "knife") for i in range(12)]
    poor = [made(100 + i, "knife", shows="dice") for i in range(3)]
    neon = [made(200 + i, "knife", style="neon") for i in range(4)]
    work.add("a", [*good, *poor, *neon])
    start = work.dataset.at.number
    facts = Adherence(lowest=0.19, max_cosine=1).run(work)
    gone = {id_ for id_, reason in reasons(work).items() if reason}
    assert gone == {id_of(one) for one in poor}, "of few in a style, what the category as a whole asks is asked"
    assert facts["reasons"] == {"asked for knife, matches these words less than others of its kind": 3}
    assert facts["acceptance_by_style"] == {"neon": 1.0, "photo": 0.8}
    assert facts["worst_prompts"] == [{"prompt": f"a knife, {100 + i}", "kept": 0, "made": 1} for i in range(3)]
    assert 0 < facts["diversity"]["knife photo"] < 1  # type: ignore[index, call-overload, operator]

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a threshold loaded a model")

    monkeypatch.setattr(look, "open_encoder", never)
    monkeypatch.setattr(families, "open_encoder", never)
    again = replace(work, dataset=work.dataset.checkout(start))
    assert Adherence(lowest=0, max_cosine=1).run(again)["kept"] == 19


def test_what_was_kept_does_not_fall_when_more_is_judged(work: Work) -> None:
    work.add("a", [made(i, "knife") for i in range(20)])
    first = Adherence(max_cosine=1).run(work)
    assert (first["kept"], first["dropped"]) == (18, 2)
    again = Adherence(max_cosine=1).run(replace(work, name="again"))
    assert (again["kept"], again["dropped"]) == (18, 0)


@pytest.mark.parametrize("by", ["hash", "vector"])
def test_a_copy_of_a_real_image_goes_unless_it_was_made_from_it(work: Work, by: str) -> None:
    real_ones = [real(i, "knife") for i in range(4)]
    work.add("real", real_ones)
    copy = made(10, "knife", data=altered(real_ones[0], lambda image: image + 3))
    child = made(11, "knife", data=altered(real_ones[1], lambda image: image + 4), parents=(id_of(real_ones[1]),))
    other = made(12, "knife")
    work.add("made", [copy, child, other])
    if by == "hash":
        Hash().run(work)
    Adherence(encoder="" if by == "hash" else "starter:retrieval", lowest=0).run(work)
    told = reasons(work)
    assert id_of(real_ones[0])[:12] in told[id_of(copy)]
    assert told[id_of(copy)].startswith("copy of" if by == "hash" else "nearly the same as a real image")
    assert told[id_of(child)] == told[id_of(other)] == ""
    assert work.dataset.count("not made") == 4


def test_of_images_that_are_nearly_the_same_the_better_one_stays(work: Work) -> None:
    first = made(0, "knife", score=0.5)
    second = replace(made(0, "knife", score=0.8), data=altered(first, lambda image: image + 2))
    apart = made(1, "knife", score=0.4)
    also = made(0, "pill", data=altered(first, lambda image: image - 5))
    work.add("a", [first, second, apart, also])
    Adherence(lowest=0).run(work)
    told = reasons(work)
    assert told[id_of(first)] == f"nearly the same as a better one: {id_of(second)[:12]}"
    assert told[id_of(second)] == told[id_of(apart)] == ""
    assert told[id_of(also)] == "", "it was asked for as another thing"


def test_a_look_alike_stays_where_the_thing_is_not_found_and_is_not_compared_with_it(work: Work) -> None:
    things = [made(i, "knife") for i in range(20)]

    def twin(number: int, data: bytes = b"", found: str = "dice") -> NewSample:
        one = made(number, found, data=data)
        return replace(one, origin=one.origin | {"category": "knife", "instead": "dice"})

    # nearly the same as its thing, which a pair is outside of the hole
    alike = twin(100, altered(things[0], lambda image: image + 3))
    others, wrong = [twin(200 + i) for i in range(11)], twin(300, scene(300, "knife")[0], found="knife")
    work.add("a", [*things, alike, *others, wrong])
    facts = Adherence(min_agreement=1).run(work)
    told = reasons(work)
    assert told[id_of(wrong)] == "asked for a look-alike, found knife"
    assert [told[id_of(one)] for one in (alike, *others)] == [""] * 12, "the words of the category are not for them"
    assert facts["reasons"]["asked for knife, matches these words less than others of its kind"] == 2
    assert facts["kept_by_category"] == {"knife": 18, "look-alike of knife": 12}
    first = made_for(work, [State.AUTO, State.REVIEWED])[:8]
    assert len({*first} & {id_of(one) for one in (alike, *others)}) == 4, "they take turns with the things"


def test_images_that_differ_in_a_face_that_somebody_consented_to_all_stay(work: Work) -> None:
    one = made(0, "knife")
    swaps = [replace(one, data=altered(one, lambda image, n=n: image + n)) for n in (1, 2, 3)]  # type: ignore[misc]
    work.add("a", [replace(swap, origin=swap.origin | {"consent": [{"record": "form-17"}]}) for swap in swaps])
    assert Adherence(lowest=0).run(work)["kept"] == 3


def test_what_was_asked_for_nothing_goes_for_being_broken_or_a_copy_alone(work: Work) -> None:
    def drawn(seed: int, data: bytes = b"") -> NewSample:
        one = made(seed, "knife", style="neon", data=data)
        return replace(one, origin={"style": "neon", "method": "restyle", "prompt": "a neon", "parents": []})

    one, black = drawn(0), drawn(1, encode_png(np.zeros((64, 64, 3), np.uint8)))
    other = drawn(0, altered(one, lambda image: image + 2))
    work.add("a", [one, other, black])
    facts = Adherence(lowest=0.5).run(work)
    assert reasons(work) == {id_of(one): "", id_of(other): "", id_of(black): "black"}
    assert facts["kept_by_category"] == {}
    assert facts["acceptance_by_style"] == {"neon": pytest.approx(2 / 3, abs=1e-3)}


def test_what_is_drawn_into_two_places_of_one_scene_stays() -> None:
    vector, left, right = np.ones(8, np.int8), (0.0, 0.0, 9.0, 9.0), (20.0, 0.0, 29.0, 9.0)
    images = [
        Seen(id=id_, category="knife", vector=vector, parents=("p",), place=place)
        for id_, place in (("a", left), ("b", right), ("c", (0.0, 1.0, 9.0, 9.0)))
    ]
    told = decide(images, Limits(), Real(vector_ids=["p"], vectors=vector[None])).reasons
    assert told == {"a": "", "b": "", "c": "nearly the same as a better one: a"}


def test_a_classifier_of_the_run_is_asked(work: Work) -> None:
    work.add("real", [real(i, ("knife", "dice")[i % 2]) for i in range(40)])
    quick = TrainClassifier(steps=25, batch_size=8, method="probe", lr=0.01, patience=0, spots=0, image_side=48)
    quick.run(replace(work, name="first", folder=work.folder / "first"))
    right, wrong = [made(100 + i, "knife") for i in range(4)], [made(200 + i, "knife", shows="dice") for i in range(4)]
    work.add("made", [*right, *wrong])
    facts = Adherence(encoder="", classifier="first", min_agreement=0.5).run(work)
    told = reasons(work)
    assert {told[id_of(one)] for one in wrong} == {"asked for knife, the classifier does not see it"}
    assert sum(not told[id_of(one)] for one in right) >= 3
    assert facts["dropped"] == sum(map(bool, told.values()))


def test_what_is_kept_is_in_order_and_training_takes_the_first(work: Work) -> None:
    work.add("real", [real(1000 + i, "dice") for i in range(4)])
    knives = [made(i, "knife", score=0.5 + 0.1 * i) for i in range(4)]
    pills = [made(10 + i, "pill", score=0.5 + 0.1 * i, style=("photo", "neon")[i % 2]) for i in range(4)]
    work.add("made", [*knives, *pills])
    Adherence(encoder="").run(work)
    found = {s.id: s.columns[RANK] for s in work.dataset.samples("made", images=False)}
    assert [found[id_of(one)] for one in knives] == [6, 4, 2, 0]
    assert [found[id_of(one)] for one in pills] == [7, 5, 3, 1], "neon and photo take turns"
    first = made_for(work, [State.AUTO, State.REVIEWED], 0.5)
    assert first == [id_of(knives[3]), id_of(pills[3])]


def test_all_reasons_are_weighed_in_one_order() -> None:
    vector = np.ones(8, np.int8)
    bits = np.zeros(4, np.uint64)
    images = [
        Seen(id="black", category="pill", brightness=0, contrast=0, wrong="asked for pill, nothing found"),
        Seen(id="wrong", category="pill", wrong="asked for pill, nothing found", hash=bits),
        Seen(id="copy", category="pill", hash=bits ^ np.uint64(1), agrees=0.0),
        Seen(id="unseen", category="pill", agrees=0.1),
        Seen(id="fine", category="pill", agrees=0.9, vector=vector, found=0.5),
        Seen(id="same", category="pill", agrees=0.9, vector=vector, found=0.4),
    ]
    verdict = decide(images, Limits(min_agreement=0.2), Real(hash_ids=["r"], hashes=bits[None]))
    assert verdict.reasons == {
        "black": "black",
        "wrong": "asked for pill, nothing found",
        "copy": "copy of a real image: r",
        "unseen": "asked for pill, the classifier does not see it",
        "fine": "",
        "same": "nearly the same as a better one: fine",
    }
    assert verdict.ranks == {"fine": 0}


def asked(
    number: int, category: str, prompt: str, *, accepted: bool, style: str = "photo", step: str = "generate"
) -> NewSample:
    origin: dict[str, Json] = {"prompt": prompt, "category": category, "style": style, "step": step}
    columns: dict[str, Json] = {"adherence.asked": category} | ({RANK: number} if accepted else {})
    return NewSample(data=scene(number, "knife")[0], origin=origin, columns=columns)


def test_a_second_round_makes_up_for_what_was_rejected_in_words_that_were_accepted(work: Work) -> None:
    policy_names = ("knife", "pill")
    places = ("on a table", "on grass", "in a bag")
    rows = [("knife", f"a photo of a knife {places[i % 3]}", i % 3 == 0) for i in range(12)]
    rows += [("pill", f"a photo of a pill {places[i % 3]}", True) for i in range(6)]
    work.add("made", [asked(i, name, prompt, accepted=good) for i, (name, prompt, good) in enumerate(rows)])
    work.add("other", [asked(50, "knife", "a photo of a knife on grass", accepted=False, step="another")])
    work.add("real", [real(1000 + i, policy_names[i % 2]) for i in range(80)])
    words = Words(
        template="a {style} of a {thing} {place}",
        inpaint_template="a {thing}",
        fillings={"place": places},
        things={"knife": ("knife",), "pill": ("pill",)},
    )
    step = Generate(categories=policy_names, again="generate", words=words)
    plan = step.plan(work)
    assert Counter(r.category for r in plan.requests) == {"knife": 8}, "of the pills all were accepted"
    assert {r.prompt for r in plan.requests} == {"a photo of a knife on a table"}, "the others were never accepted"
    assert len(replace(step, count=3).plan(work).requests) == 3
    unjudged = replace(asked(60, "knife", "a knife", accepted=False, step="another one"), columns={})
    work.add("unjudged", [unjudged])
    with pytest.raises(InputError, match="1 images of 'another one' were not judged yet; put 'ground' and 'adherence'"):
        replace(step, again="another one").plan(work)
    first = replace(step, again="", count=60, categories=("pill",)).plan(work)
    assert Counter(r.prompt.partition("pill ")[2] for r in first.requests).keys() == {*places}


def test_words_are_chosen_by_how_much_was_accepted_and_none_is_given_up() -> None:
    rows = [("on a table", True)] * 9 + [("on a table", False)] + [("on grass", False)] * 10
    samples = [
        Sample(
            id=str(i), size_wh=(1, 1), origin={"prompt": f"a knife {place}", "category": "knife", "step": "g"},
            columns={"adherence.asked": "knife"} | ({RANK: i} if good else {}),
        )
        for i, (place, good) in enumerate(rows)
    ]  # fmt: skip
    tried = Tried(samples, "g")
    table, grass, bag = tried.liked("knife")(("on a table", "on grass", "in a bag"))  # type: ignore[misc]
    assert table + grass + bag == pytest.approx(1)
    assert table > bag > grass > 0.08
    assert tried.liked("pill")(("on a table",)) is None
    assert tried.lacking(100, [("knife", "")]) == {("knife", ""): 11}
