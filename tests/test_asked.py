"""What a label was asked for: who decides is settled for each category, and what nobody asked is not known."""

import itertools
from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.claims import PEOPLE, Answer, Claim, State, Truth, agree, asked_in, resolve, shared, standing
from tilth.data.spent import spent
from tilth.samples import Sample

NAMES = ("knife", "pill", "dice")
FOUR = (*NAMES, "vape")
A, B, C = (1.0, 1.0, 9.0, 9.0), (20.0, 1.0, 29.0, 9.0), (1.0, 1.0, 9.0, 8.0)
SOURCES = (
    "human:ann",
    "human:bob",
    "human:cat",
    "import:a",
    "import:b",
    "model:a@1",
    "model:b@1",
    "model:c@1",
    "synth:s",
)


def old_standing(claims: Iterable[Claim]) -> dict[str, list[Claim]]:
    """`standing` as it was before claims said what was asked."""
    by_source: dict[str, list[Claim]] = {}
    for claim in claims:
        seen = by_source.setdefault(claim.source, [])
        if seen and seen[-1].evidence.get("round") != claim.evidence.get("round"):
            seen.clear()
        seen.append(claim)
        replaced = claim.evidence.get("instead_of") if claim.kind == "model" else None
        for other in replaced if isinstance(replaced, list | tuple) else ():
            if str(other).startswith("model:") and other != claim.source:
                by_source.pop(str(other), None)
    return by_source


def old_resolve(claims: Iterable[Claim]) -> tuple[State, tuple[Claim, ...]]:
    """`resolve` as it was before claims said what was asked."""
    by_source = {k: v for k, v in old_standing(claims).items() if all(claim.says != "withdraw" for claim in v)}
    people = [v for k, v in by_source.items() if k.startswith("human:")] or [
        v for k, v in by_source.items() if k.startswith("import:")
    ]
    if people:
        return old_people(people)
    models = [v for k, v in by_source.items() if k.startswith("model:")]
    if models:
        return State.AUTO, old_majority(models)
    synth = [claim for k, v in by_source.items() if k.startswith("synth:") for claim in v]
    made = tuple(claim for claim in synth if claim.says == "label")
    # new since then: an image that was made to show nothing of what it says it was made without is labelled, too
    return State.AUTO if made or any(claim.asked for claim in synth) else State.UNLABELLED, made


def old_people(people: list[list[Claim]]) -> tuple[State, tuple[Claim, ...]]:
    if any(claim.says == "reject" for round_ in people for claim in round_):
        return State.REJECTED, ()
    decided = [round_ for round_ in people if all(claim.says != "escalate" for claim in round_)]
    labels = [[claim for claim in round_ if claim.says == "label"] for round_ in decided]
    agreed = [mine for mine in labels if 2 * sum(agree(mine, other) for other in labels) > len(labels)]
    if not agreed:
        return State.DISPUTED, ()
    return State.REVIEWED if agreed[-1] else State.CONFIRMED_EMPTY, tuple(agreed[-1])


def old_majority(models: list[list[Claim]]) -> tuple[Claim, ...]:
    labels = [[claim for claim in said if claim.says == "label"] for said in models]
    if len(labels) == 1:
        return tuple(labels[0])
    kept: list[Claim] = []
    for claim in sorted((c for said in labels for c in said), key=lambda c: -c.score):
        votes = sum(any(shared([claim], [other]) for other in said) for said in labels)
        if votes * 2 > len(labels) and not any(shared([claim], [other]) for other in kept):
            kept.append(claim)
    return tuple(kept)


@st.composite
def rounds(draw: st.DrawFn, askable: st.SearchStrategy[tuple[str, ...]], least: int = 0) -> list[list[Claim]]:
    """What several sources said of one image, round by round."""
    told = []
    for number in range(draw(st.integers(least, 6))):
        source = draw(st.sampled_from(SOURCES))
        asked = draw(askable)
        evidence: dict[str, object] = {"round": number}
        if source.startswith("model:") and draw(st.integers(0, 4)) == 0:
            evidence["instead_of"] = ["model:a@1"]
        says = draw(st.sampled_from(["label", "label", "label", "empty", "empty", "reject", "escalate", "withdraw"]))
        if source.startswith(("model:", "synth:", "import:")) and says in ("reject", "escalate", "withdraw"):
            says = "empty"
        common = {"source": source, "evidence": evidence, "asked": asked}
        if says != "label":
            told.append([Claim(says=says, **common)])
            continue
        thing = st.tuples(st.sampled_from(asked or NAMES), st.sampled_from([A, B, C]))
        things = draw(st.lists(thing, min_size=1, max_size=3, unique=not source.startswith("human:")))
        score = draw(st.sampled_from([0.4, 0.6, 0.9]))
        told.append([Claim(category=c, box_xyxy=box, score=score, **common) for c, box in things])
    return told


def flat(told: list[list[Claim]]) -> list[Claim]:
    return list(itertools.chain.from_iterable(told))


@settings(deadline=None, max_examples=500)
@given(st.one_of(rounds(st.just(NAMES)), rounds(st.just(()))))
def test_when_all_were_asked_for_all_or_none_says_truth_is_what_it_always_was(told: list[list[Claim]]) -> None:
    claims = flat(told)
    now = resolve(claims)
    assert (now.state, now.labels) == old_resolve(claims)
    assert standing(claims) == old_standing(claims)


some = st.lists(st.sampled_from(FOUR), unique=True).map(lambda names: tuple(sorted(names)))


@settings(deadline=None, max_examples=500)
@given(rounds(some))
def test_a_category_is_decided_by_the_highest_who_looked_for_it_and_by_nobody_else(told: list[list[Claim]]) -> None:
    claims = flat(told)
    truth, said = resolve(claims), standing(claims)
    if truth.state in (State.DISPUTED, State.REJECTED):
        assert not truth.labels
        assert all(truth.of(name) is Answer.UNASKED for name in FOUR)
        return
    if truth.silent:
        return
    told_by = {
        kind: [v for k, v in said.items() if k.startswith(kind)] for kind in ("human", "import", "model", "synth")
    }
    for name in FOUR:
        lookers = [
            kind
            for kind, sources in told_by.items()
            if any(name in asked_in(v) for v in sources if all(c.says not in ("withdraw", "escalate") for c in v))
        ]
        assert truth.looked.get(name) == (lookers[0] if lookers else None)
        assert (truth.of(name) is Answer.UNASKED) == (not lookers)
    for label in truth.labels:
        assert truth.looked[str(label.category)] == label.kind
        assert truth.of(str(label.category)) is Answer.PRESENT


@settings(deadline=None, max_examples=500)
@given(rounds(some, least=1))
def test_a_round_changes_what_its_source_says_of_no_category_that_it_did_not_ask_for(told: list[list[Claim]]) -> None:
    *before, last = told
    if (
        last[0].kind not in ("human", "model")
        or not last[0].asked
        or last[0].says in ("reject", "escalate", "withdraw")
    ):
        return
    source, asked = last[0].source, asked_in(last)
    was, now = (standing(flat(part)).get(source, []) for part in (before, told))
    was = [claim for claim in was if claim.says in ("label", "empty")]
    assert set(asked_in(was)) | set(asked) == set(asked_in(now)) or not asked_in(was)
    labels = [(c.category, c.box_xyxy) for c in was if c.category and c.category not in asked]
    assert labels == [(c.category, c.box_xyxy) for c in now if c.category and c.category not in asked]
    assert [c for c in now if c.category in asked] == [c for c in last if c.category in asked]


@settings(deadline=None, max_examples=100)
@given(rounds(some))
def test_what_a_model_repeats_in_a_round_it_has_said_once(told: list[list[Claim]]) -> None:
    twice = [[*said, *said] if said[0].kind == "model" else said for said in told]
    assert standing(flat(twice)) == standing(flat(told))


@settings(deadline=None, max_examples=400)
@given(rounds(some), rounds(some), st.booleans())
def test_nothing_that_is_said_later_depends_on_what_is_spent(
    told: list[list[Claim]], later: list[list[Claim]], again: bool
) -> None:
    rows = [*told, *(told if again else [])]  # the same settings decide again on another night
    gone = spent(rows)
    kept = [[claim for claim in row if (n, claim.source) not in gone] for n, row in enumerate(rows)]
    assert all(source.startswith("model:") for _, source in gone)
    for more in ([], later):
        before, after = flat([*rows, *more]), flat([*kept, *more])
        truth, now = resolve(before), resolve(after)
        assert (truth.state, truth.categories, truth.looked) == (now.state, now.categories, now.looked)
        for leave in ("", "model:a", "model:b"):  # such as a student, whom its teachers are compared with
            was, is_ = (
                standing(c for c in all_ if not leave or not c.source.startswith(leave)) for all_ in (before, after)
            )
            assert {k: v for k, v in was.items() if not gone_by_now(v)} == {
                k: v for k, v in is_.items() if not gone_by_now(v)
            }


def gone_by_now(said: list[Claim]) -> bool:
    return said[0].kind == "model" and all(claim.says == "withdraw" for claim in said)


def test_a_night_after_another_leaves_no_more_to_remember_than_one() -> None:
    rows: list[list[Claim]] = []
    most = []
    for night in range(20):
        teacher = [Claim(category="knife", box_xyxy=A, source="model:t@1", asked=NAMES, evidence={"round": "r"})]
        mine = {"source": f"model:student@{night}", "asked": ("knife",)}
        evidence = {"round": night, "instead_of": ["model:t@1"]}
        gone = [
            Claim(says="withdraw", source=s) for row in rows for s in {c.source for c in row if "student" in c.source}
        ]
        rows += [teacher, [Claim(category="knife", box_xyxy=C, evidence=evidence, **mine), *gone]]  # type: ignore[arg-type]
        lost = spent(rows)
        rows = [left for n, row in enumerate(rows) if (left := [c for c in row if (n, c.source) not in lost])]
        most.append(sum(map(len, rows)))
        assert [c.box_xyxy for c in resolve(flat(rows)).labels] == [C]
    assert max(most) <= 4, most


def person(*labels: str, asked: tuple[str, ...] = (), who: str = "ann", round_: int = 1) -> list[Claim]:
    common = {"source": f"human:{who}", "asked": asked, "evidence": {"round": round_}}
    return [Claim(category=name, box_xyxy=A, **common) for name in labels] or [Claim(says="empty", **common)]


def test_a_category_added_on_the_third_day_turns_no_earlier_image_into_its_negative() -> None:
    first_day = person("knife", asked=NAMES)
    truth = resolve(first_day)
    assert [truth.of(name) for name in FOUR] == [Answer.PRESENT, Answer.ABSENT, Answer.ABSENT, Answer.UNASKED]
    assert truth.unasked(FOUR) == ("vape",)
    third_day = resolve([*first_day, *person("vape", asked=("vape",), round_=2)])
    assert {c.category for c in third_day.labels} == {"knife", "vape"}
    assert third_day.unasked(FOUR) == ()
    nothing = resolve([*first_day, *person(asked=("vape",), round_=2)])
    assert (nothing.state, nothing.of("vape"), nothing.of("pill")) == (State.REVIEWED, Answer.ABSENT, Answer.ABSENT)


def test_that_others_were_absent_outlives_the_label_that_said_so() -> None:
    truth = resolve([*person("knife", asked=NAMES), *person(asked=("knife",), round_=2)])
    assert truth.state is State.CONFIRMED_EMPTY
    assert [truth.of(name) for name in NAMES] == [Answer.ABSENT] * 3


def test_a_model_answers_what_people_were_not_asked() -> None:
    seen = [Claim(category=name, box_xyxy=B, source="model:a@1", asked=FOUR) for name in ("knife", "vape")]
    truth = resolve([*person("pill", asked=NAMES), *seen])
    assert {c.category: c.kind for c in truth.labels} == {"pill": "human", "vape": "model"}
    assert truth.looked == {"knife": "human", "pill": "human", "dice": "human", "vape": "model"}
    assert truth.unasked(FOUR) == ()
    assert truth.unasked(FOUR, PEOPLE) == ("vape",)
    assert resolve([*person(asked=NAMES), *seen]).state is State.REVIEWED, "people looked, and something is there"


def test_people_who_were_asked_for_different_things_do_not_disagree() -> None:
    ann, bob = person("knife", asked=NAMES), person("vape", asked=("vape",), who="bob")
    assert {c.category for c in resolve([*ann, *bob]).labels} == {"knife", "vape"}
    assert resolve([*ann, *person(asked=FOUR, who="bob")]).state is State.DISPUTED


def test_an_import_that_is_read_again_takes_the_place_of_all_it_said() -> None:
    wrong = Claim(category="pill", source="import:a", asked=("pill",), evidence={"round": "1"})
    right = Claim(category="knife", source="import:a", asked=("knife",), evidence={"round": "2"})
    assert resolve([wrong, right]).categories == {"knife"}


def test_who_does_not_say_what_they_looked_for_speaks_for_what_they_name() -> None:
    truth = resolve([*person("knife"), Claim(category="pill", source="model:a@1", asked=NAMES)])
    assert truth == Truth(state=State.REVIEWED, labels=tuple(person("knife")), looked={"knife": "human"}, silent=True)
    empty = resolve(person())
    assert (empty.state, empty.unasked(NAMES)) == (State.CONFIRMED_EMPTY, NAMES)


def test_whatever_is_about_the_whole_image_is_so_whatever_was_asked() -> None:
    said = person("knife", asked=NAMES)
    for says, state in (("reject", State.REJECTED), ("escalate", State.DISPUTED), ("withdraw", State.UNLABELLED)):
        whole = Claim(says=says, source="human:ann", asked=("vape",), evidence={"round": 2})  # type: ignore[arg-type]
        truth = resolve([*said, whole])
        assert (truth.state, truth.labels) == (state, ())
        assert (
            truth.unasked(FOUR, PEOPLE) == (NAMES if state is State.DISPUTED else FOUR) or state is not State.DISPUTED
        )
        again = resolve([*said, whole, *person(asked=("vape",), round_=3)])
        assert (again.state, again.unasked(FOUR)) == (State.CONFIRMED_EMPTY, NAMES)


def test_what_can_still_be_asked_of_an_image_leaves_out_those_in_question() -> None:
    def sample(*claims: Claim) -> Sample:
        return Sample(id="a", size_wh=(40, 40), claims=claims)

    assert sample().to_ask(FOUR) == FOUR
    assert sample(*person("knife", asked=NAMES)).to_ask(FOUR) == ("vape",)
    assert sample(*person("knife", asked=NAMES), *person(asked=NAMES, who="bob")).to_ask(FOUR) == ()
    assert sample(Claim(says="reject", source="human:ann", asked=NAMES)).to_ask(FOUR) == ()
    assert sample(*person(), Claim(says="withdraw", source="human:ann")).to_ask(FOUR) == ()


@settings(deadline=None, max_examples=40)
@given(asked=some, policy=st.sampled_from(["", "starter@1"]))
def test_a_dataset_keeps_what_was_asked(asked: tuple[str, ...], policy: str) -> None:
    import pyarrow as pa

    from tilth.data.table import RESULT, read_claim, result_row
    from tilth.samples import Result

    claim = Claim(category="knife", box_xyxy=A, source="human:ann", time="now", asked=asked, policy=policy)
    row = pa.Table.from_pylist([result_row("a", Result(claims=(claim,)), "")], schema=RESULT).to_pylist()[0]
    assert read_claim(row["claims"][0]) == claim
