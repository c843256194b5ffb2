"""Tables of texts in and out: every way to tell a label, everything that goes wrong in a row, and nothing lost on the way."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import tilth
from words_world import WORDS, jsonl

from tilth.annotate.texts.importing import ImportText
from tilth.annotate.texts.sets import SETS
from tilth.annotate.texts.writing import FORMATS, export_texts, interface
from tilth.claims import Answer
from tilth.data.dataset import Dataset
from tilth.engine.steps import Facts
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.mining.cleaning.split import Split
from tilth.samples import TEXT, NewSample, Sample


@pytest.fixture
def words(work: Work) -> Work:
    work.policy = WORDS
    return work


def take(work: Work, path: Path, **settings: Any) -> Facts:
    one = ImportText(path=path, **settings)
    work.show_own(one)
    return one.run(work)


def only(work: Work) -> Sample:
    (sample,) = work.dataset.samples()
    return sample


@pytest.mark.parametrize(
    ("row", "settings", "present", "asked"),
    [
        ({"label": "gambling"}, {}, {"gambling"}, {"gambling"}),
        ({"label": "BETS"}, {}, {"gambling"}, {"gambling"}),
        ({"label": "gambling"}, {"covers": ("gambling", "threats")}, {"gambling"}, {"gambling", "threats"}),
        ({"labels": ["gambling"]}, {}, {"gambling"}, {"gambling", "threats"}),
        ({"labels": '["gambling", "threats"]'}, {}, {"gambling", "threats"}, {"gambling", "threats"}),
        ({"label": "safe"}, {}, set(), {"gambling", "threats"}),
        ({"gambling": 1, "threats": 0}, {}, {"gambling"}, {"gambling", "threats"}),
        ({"gambling": 0.2, "threats": None}, {}, set(), {"gambling"}),
        ({"gambling": "true", "threats": ""}, {}, {"gambling"}, {"gambling"}),
        ({"label": "casino"}, {"categories": {"casino": "gambling"}}, {"gambling"}, {"gambling"}),
        ({"label": "casino"}, {"categories": {"casino": ""}}, set(), set()),
        ({"labels": []}, {}, set(), set()),
        ({"labels": []}, {"empty_means": "confirmed_empty"}, set(), {"gambling", "threats"}),
        ({"labels": ["gambling", "casino"]}, {}, {"gambling"}, {"gambling"}),  # who knows what the other meant
        ({}, {}, set(), set()),
    ],
)  # fmt: skip
def test_a_label_is_told_in_many_ways(
    words: Work, tmp_path: Path, row: dict[str, Any], settings: Mapping[str, Any], present: set[str], asked: set[str]
) -> None:
    take(words, jsonl(tmp_path / "a.jsonl", {"text": "some words", **row}), **settings)
    truth = only(words).truth
    assert truth.categories == present
    assert {name for name in WORDS.names if truth.of(name) is not Answer.UNASKED} == asked


def test_a_label_that_nobody_knows_is_named_and_its_text_is_never_called_empty(words: Work, tmp_path: Path) -> None:
    rows = [{"text": "some words", "labels": ["casino"]}, {"text": "others", "labels": []}]
    facts = take(words, jsonl(tmp_path / "a.jsonl", *rows), empty_means="confirmed_empty")
    assert facts["unknown_categories"] == {"casino": 1}
    assert words.dataset.tally("state") == {("unlabelled",): 1, ("confirmed_empty",): 1}


def test_what_is_wrong_with_a_row_costs_that_row_alone_and_is_named_without_its_words(
    words: Work, tmp_path: Path
) -> None:
    rows = [
        {"text": "  caf\u0065\u0301 bets  ", "labels": [{"category": "bets", "start": 8, "end": 12}]},
        {"text": ""},
        "{broken",
        {"text": 7},
        {"words": "secret"},
        {"text": "x" * 100_001},
        {"text": "secret", "labels": [{"category": "bets", "start": 2, "end": 99}]},
        {"text": "secret", "labels": [{"category": "bets", "start": "2", "end": 4}]},
        "a text alone",
        {"text": "\u202eabc \u0000"},
        {"text": "secret", "label": 1.5},
    ]
    facts = take(words, jsonl(tmp_path / "a.jsonl", *rows))
    first, plain, other = words.dataset.samples()
    assert first.text()[slice(*map(int, first.truth.labels[0].span or ()))] == "bets"
    assert (plain.text(), other.text()) == ("a text alone", "secret")
    assert facts["odd"] == {"label that is no name": 1}
    assert (facts["texts"], facts["failed"]) == (3, 8)
    told = "\n".join(map(str, facts["failed_examples"]))  # type: ignore[arg-type]
    for why in (
        "empty text",
        "not JSON",
        "got int",
        "no column 'text'; there are: words",
        "100,001",
        "span (2, 99)",
        "'2'",
    ):
        assert why in told
    assert "secret" not in told
    assert "secret" not in (words.dataset.root.parent / "events.jsonl").read_text()


def test_csv_keeps_lines_within_quotation_marks_and_takes_any_sign(words: Work, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'id;comment;gambling\n7;"two\n\nlin\xe9s";1\n8;"unfinished;0\n')
    facts = take(words, tmp_path / "a.csv")
    sample = only(words)
    assert (sample.text(), sample.columns["text.damaged"]) == ("two\n\nlin\ufffds", 1)
    assert str(sample.origin["source"]).endswith("a.csv#7")
    assert facts["failed"] == 1
    assert "quotation mark" in str(facts["failed_examples"])


def test_what_datasets_saves_is_read_with_the_names_of_its_classes(words: Work, tmp_path: Path) -> None:
    import datasets

    names = datasets.ClassLabel(names=["safe", "gambling"])
    features = datasets.Features({"text": datasets.Value("string"), "label": names})
    found = datasets.Dataset.from_dict({"text": ["bets", "a walk"], "label": [1, 0]}, features=features)
    datasets.DatasetDict({"train": found}).save_to_disk(str(tmp_path / "saved"))
    found.to_parquet(str(tmp_path / "b" / "test-00000.parquet"))
    take(words, tmp_path / "saved")
    assert [(s.text(), str(s.state)) for s in words.dataset.samples()] == [
        ("bets", "reviewed"),
        ("a walk", "confirmed_empty"),
    ]
    other = Work(name="other", dataset=Dataset(tmp_path / "o"), policy=WORDS, folder=tmp_path, events=words.events)
    take(other, tmp_path / "b")
    assert other.dataset.tally("split") == {("test",): 2}


@pytest.mark.parametrize("name", SETS)
def test_a_public_set_is_read_by_its_own_columns(words: Work, tmp_path: Path, name: str) -> None:
    how = SETS[name]
    row: dict[str, Any] = {column: f"words of {column}" for column in how.text}
    theirs = "casino"
    if how.flags:
        row |= {how.flags[0]: 1, how.flags[1]: 0}
        theirs = how.rename.get(how.flags[0], how.flags[0])
    elif how.inside:
        row[how.inside] = {"casino": True, "other": False}
    else:
        row[how.label] = f"casino{how.split_at} other" if how.split_at else "casino"
    facts = take(words, jsonl(tmp_path / "a.jsonl", row), like=name, categories={theirs: "threats", "other": ""})
    assert only(words).truth.categories == {"threats"}
    assert not facts["unknown_categories"]


def test_a_second_import_of_the_same_rows_adds_nothing_and_another_of_changed_ones_replaces_it(
    words: Work, tmp_path: Path
) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"text": "bets", "label": "gambling"})
    take(words, path)
    before = words.dataset.at
    take(words, path)
    assert words.dataset.at == before
    take(words, jsonl(path, {"text": "bets", "label": "threats"}, {"text": "more"}))
    assert [s.truth.categories for s in words.dataset.samples()] == [{"threats"}, set()]


@pytest.mark.parametrize("format_", FORMATS)
def test_what_is_written_says_what_the_dataset_says(words: Work, tmp_path: Path, format_: str) -> None:
    rows = [
        {"text": 'bets, "now"\nand here', "labels": [{"category": "bets", "start": 0, "end": 4}], "split": "train"},
        {"text": "a walk", "gambling": 0, "split": "val", "licence": "CC0-1.0"},
        {"text": "nobody looked"},
    ]
    take(words, jsonl(tmp_path / "a.jsonl", *rows))
    said: list[str] = []
    told = export_texts(words.dataset, tmp_path / "out", format_, say=said.append)
    assert (told["texts"], told["left_out"]) == (2, {"unlabelled": 1})
    assert said[0] == "left out: 1 texts: unlabelled"
    assert (len(said) == 2) == (format_ == "csv")
    if format_ == "labelstudio":
        (task,) = json.loads((tmp_path / "out" / "train.json").read_text())
        (region,) = task["annotations"][0]["result"]
        assert region["value"] == {"start": 0, "end": 4, "text": "bets", "labels": ["gambling"]}
        assert (tmp_path / "out" / "interface.xml").read_text() == interface(["gambling", "threats"])
        (tmp_path / "out" / "interface.xml").unlink()
    other = Work(name="again", dataset=Dataset(tmp_path / "o"), policy=WORDS, folder=tmp_path, events=words.events)
    take(other, tmp_path / "out")
    theirs = {s.id: s for s in other.dataset.samples()}
    for sample in words.dataset.samples("state != 'unlabelled'"):
        again = theirs[sample.id]
        assert (again.text(), again.state, again.split) == (sample.text(), sample.state, sample.split)
        assert again.truth.categories == sample.truth.categories
        if format_ != "labelstudio":  # who answers there was asked for everything
            assert again.origin["licence"] == sample.origin["licence"]
            assert [again.truth.of(name) for name in WORDS.names] == [sample.truth.of(name) for name in WORDS.names]
        spans = [(label.category, label.span) for label in sample.truth.labels]
        assert [(label.category, label.span) for label in again.truth.labels] == (
            [(name, None) for name, _ in spans] if format_ == "csv" else spans
        )


@pytest.mark.parametrize(("format_", "warned"), [("csv", True), ("jsonl", False)])
def test_who_may_open_a_table_in_a_spreadsheet_is_warned_of_texts_that_are_formulas(
    words: Work, tmp_path: Path, format_: str, warned: bool
) -> None:
    take(words, jsonl(tmp_path / "a.jsonl", *({"text": text, "label": "safe"} for text in ("=1+1", "@SUM(A1)", "1+1"))))
    said: list[str] = []
    export_texts(words.dataset, tmp_path / "out", format_, say=said.append)
    assert any("2 texts begin as formulas" in line for line in said) is warned


def test_the_folder_of_parquet_is_one_that_datasets_opens(words: Work, tmp_path: Path) -> None:
    import datasets

    rows = [{"text": "bets", "labels": ["gambling"], "split": s} for s in ("train",)] + [
        {"text": "a", "label": "safe", "split": "val"}
    ]
    take(words, jsonl(tmp_path / "a.jsonl", *rows))
    export_texts(words.dataset, tmp_path / "out", "parquet", say=print)
    found = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {split: part["text"][:] for split, part in found.items()} == {"train": ["bets"], "validation": ["a"]}


def test_a_text_goes_where_the_image_goes_that_it_was_read_in(words: Work, tmp_path: Path) -> None:
    import numpy as np

    from tilth.images import encode_png

    rng = np.random.default_rng(0)
    pictures = [encode_png(rng.integers(0, 255, (8, 8, 3), np.uint8)) for _ in range(20)]
    words.add("images", [NewSample(data=data, origin={"source": str(n)}) for n, data in enumerate(pictures)])
    ids = [sample.id for sample in words.dataset.samples()]
    take(
        words,
        jsonl(tmp_path / "a.jsonl", *({"text": f"sign {n}", "image": id_} for n, id_ in enumerate(ids))),
        parent="image",
    )
    step = Split(val_share=0.5)
    words.show_own(step)
    step.run(words)
    split = {sample.id: sample.split for sample in words.dataset.samples()}
    assert {split[id_] for id_ in ids} == {"train", "val"}
    for sample in words.dataset.samples(f"media = '{TEXT}'"):
        assert not sample.made
        assert sample.split == split[str(sample.origin["of"])]


def test_the_commands_take_texts_in_and_write_them_one_kind_at_a_time(tmp_path: Path, image_folder: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "policy: words\nversion: 1\ncategories: [{name: gambling, evidence: text, definition: adverts}]\n"
    )
    table = jsonl(tmp_path / "a.jsonl", {"text": "bets", "label": "gambling"})
    ran = tilth("import-text", tmp_path / "d", "--policy", policy, "--set", f"path={table}")
    assert ran.returncode == 0, ran.stderr
    assert tilth("import", tmp_path / "d", "--policy", policy, "--set", f"path={image_folder}").returncode == 0
    ran = tilth("export", tmp_path / "d", tmp_path / "out", "--format", "jsonl", "--media", "text")
    assert json.loads(ran.stdout)["texts"] == 1
    assert "no text" in ran.stderr
    assert json.loads((tmp_path / "out" / "train.jsonl").read_text())["labels"][0]["category"] == "gambling"
    ran = tilth("export", tmp_path / "d", tmp_path / "o2", "--format", "jsonl")
    assert ran.returncode == 2
    assert "--media" in ran.stderr
    ran = tilth("import-text", tmp_path / "d", "--policy", policy, "--set", f"path={image_folder}")
    assert ran.returncode == 2
    assert "no rows" in ran.stderr


def test_a_wrong_path_or_setting_is_said_in_one_line(words: Work, tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_text("x")
    with pytest.raises(InputError, match="not a table of texts; those read are"):
        take(words, tmp_path / "a.docx")
    with pytest.raises(InputError, match="categories: the policy has no casino; it has gambling, threats"):
        take(words, jsonl(tmp_path / "a.jsonl", {"text": "a"}), categories={"x": "casino"})
    table = pa.table({"text": ["a"], "n": [1]})
    pq.write_table(table, tmp_path / "p.parquet")
    data = (tmp_path / "p.parquet").read_bytes()
    (tmp_path / "p.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(Exception, match="all 1 samples failed"):
        take(words, tmp_path / "p.parquet")


def test_an_export_of_label_studio_is_read_with_what_people_said_skipped_and_left_open(
    words: Work, tmp_path: Path
) -> None:
    def answer(*names: str, **more: Any) -> dict[str, Any]:
        chosen = [
            {"type": "choices", "from_name": "shows", "to_name": "text", "value": {"choices": [name]}} for name in names
        ]
        return {"id": 1, "completed_by": 1, "result": chosen, **more}

    tasks = [
        {"id": 1, "data": {"text": "bets"}, "annotations": [answer("gambling"), answer("gambling")]},
        {"id": 2, "data": {"text": "a walk", "label": "gambling"}, "annotations": [answer()]},
        {"id": 3, "data": {"text": "skipped"}, "annotations": [answer("threats", was_cancelled=True)]},
        {"id": 4, "data": {"text": "disputed"}, "annotations": [answer("threats"), answer()]},
    ]
    (tmp_path / "project-1.json").write_text(json.dumps(tasks))
    facts = take(words, tmp_path / "project-1.json")
    assert [(s.text(), str(s.state), s.truth.categories) for s in words.dataset.samples()] == [
        ("bets", "reviewed", {"gambling"}),
        ("a walk", "confirmed_empty", set()),
        ("skipped", "unlabelled", set()),
    ]
    assert facts["failed_examples"] == ["project-1.json#4: 2 people do not agree; settle it in Label Studio"]
