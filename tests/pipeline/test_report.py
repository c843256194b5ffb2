"""The report of a run: whole, honest about its numbers, careful with its pictures."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from places import POLICY
from report_run import build_run

from tilth.data.dataset import Dataset
from tilth.errors import InputError
from tilth.pipeline.report.cases import confused_rows, read_cases
from tilth.pipeline.report.numbers import Numbers, look_up
from tilth.pipeline.report.page import write_report
from tilth.pipeline.report.pictures import Album, Wanted
from tilth.pipeline.report.plots import Line, lines
from tilth.pipeline.report.results import certainty, headline
from tilth.policy import Policy
from tilth.train.measure.metrics import recall_at_fpr

if TYPE_CHECKING:
    import playwright.sync_api as playwright

VOID = {"meta", "img", "input", "br"}


class Page(HTMLParser):
    """Reads a page into what the tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[tuple[str, dict[str, str]]] = []
        self.numbers: list[tuple[dict[str, str], str]] = []
        self.loose: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.ids: list[str] = []
        self.misnested: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {k: v or "" for k, v in attrs}
        self.tags.append((tag, found))
        if "id" in found:
            self.ids.append(found["id"])
        if tag not in VOID:
            self.stack.append((tag, found))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if not self.stack or self.stack[-1][0] != tag:
            self.misnested.append(tag)
            return
        self.stack.pop()

    def handle_data(self, data: str) -> None:
        inside = [tag for tag, _ in self.stack]
        if inside and inside[-1] == "data":
            self.numbers.append((self.stack[-1][1], data))
        elif "td" in inside and "code" not in inside and "title" not in inside and re.search(r"\d", data):
            self.loose.append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset]:
    folder = tmp_path_factory.mktemp("runs") / "first-loop"
    from tilth.policy import load_policy

    policy = load_policy(POLICY)
    data = build_run(folder, policy)
    write_report(folder, data, policy)
    return folder, data


@pytest.fixture(scope="module")
def html(run: tuple[Path, Dataset]) -> str:
    return (run[0] / "report.html").read_text()


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


@pytest.fixture(scope="module")
def summary(run: tuple[Path, Dataset]) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((run[0] / "summary.json").read_text())
    return loaded


def as_number(shown: str, unit: str) -> tuple[float, float]:
    """Read a written number; return it and how much rounding may have taken."""
    if unit == "seconds":
        parts = re.findall(r"([\d.]+)\u202f(h|min|s)", shown)
        size = {"h": 3600, "min": 60, "s": 1}
        digits = 10 ** -len(parts[-1][0].partition(".")[2])
        return sum(float(n) * size[u] for n, u in parts), 0.51 * digits * (60 if parts[-1][1] != "s" else 1)
    text, _, after = shown.partition("\u202f")
    value = float(text.replace(",", ""))
    last = 10 ** -len(text.partition(".")[2])
    scale = {"%": 0.01, "GB": 1024.0}.get(after, 1.0)
    return value * scale, 0.51 * last * scale


def test_every_number_is_the_one_in_the_summary(page: Page, summary: dict[str, Any]) -> None:
    assert len(page.numbers) > 200
    for attributes, shown in page.numbers:
        value = look_up(summary, attributes["data-key"])
        assert value is not None, attributes["data-key"]
        if isinstance(value, bool) or not isinstance(value, int | float):
            assert shown == {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
            continue
        read, slack = as_number(shown, attributes["data-as"])
        assert read == pytest.approx(
            value, abs=max(slack, abs(value) * 0.006 if attributes["data-as"] == "number" else 0)
        ), attributes


def test_no_table_holds_a_number_without_its_key(page: Page) -> None:
    allowed = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)$")
    assert [text for text in page.loose if not allowed.match(text.strip())] == []


def test_the_headline_says_what_was_gained_and_what_it_cost(html: str) -> None:
    words = re.sub(r"<[^>]+>", "", re.search(r"<h1>(.*?)</h1>", html, re.S)[1]).replace("\u202f", " ")  # type: ignore[index]
    assert words.strip() == (
        "Recall at 5 % false positives rose from 31 % to 78 % with 412 human actions; "
        "random labelling with the same effort reached 52 %."
    )


def test_what_several_seeds_found_is_quoted_with_its_command(html: str, page: Page) -> None:
    assert "benchmark" in page.ids
    text = re.sub(r"<[^>]+>", "", html[html.index('id="benchmark"') :])[:3000]
    assert "python benchmarks/loop.py --seeds 1-5" in text
    assert "more than 1,500 1,380 to 1,620" in text
    assert "75.0" in text
    assert "80.0" in text
    assert re.search(r"people\s*11.0", text)
    assert re.search(r"rounds\s*3.0", text)


def test_prompts_that_were_hardly_accepted_are_named(html: str) -> None:
    text = re.sub(r"<[^>]+>", " ", html[html.index("Prompts of which least was accepted") :])[:400]
    assert re.search(r"a photo of a pill in the dark\s+0\s+3\b", text)


def test_what_generated_images_gained_is_drawn_with_its_intervals_and_said(html: str, page: Page) -> None:
    assert "proof" in page.ids
    section = html[html.index('id="proof"') :]
    text = re.sub(r"<[^>]+>", " ", section)[:4000]
    assert re.search(r"Prove:\s+10\s+of\s+21\s+generated images are kept", text)
    assert "gains +4.0 points" in text
    assert re.search(r"0\.5\s+10\s+65\.0\u202f%\s+4\.0\u202f%\s+1\.0\u202f%\s+to\s+7\.0\u202f%", text)
    drawn = section[section.index("<svg") : section.index("</svg>")]
    whiskers = re.findall(r'class="whisker" x1="([\d.]+)" x2="[\d.]+" y1="([\d.]+)" y2="([\d.]+)"', drawn)
    assert len(whiskers) == 3
    zero, half, one = ((float(low) + float(high)) / 2 for _, low, high in whiskers)
    assert half < zero < one, "what gains lies above the line, what loses below it"


def test_the_page_needs_nothing_from_outside(html: str, page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed")
        assert attributes.get("src", "data:").startswith("data:image/jpeg;base64,") or "src" not in attributes
        assert attributes.get("href", "#").startswith("#")
    assert not re.search(r"url\(|@import|https?://", html)
    assert len(html) < 6_000_000


def test_the_page_is_well_formed(page: Page) -> None:
    assert page.misnested == []
    assert page.stack == []
    assert len(page.ids) == len(set(page.ids))
    links = {a["href"][1:] for tag, a in page.tags if tag == "a"}
    assert links <= set(page.ids)


def test_pictures_and_tables_speak_to_those_who_cannot_see(page: Page) -> None:
    images = [a for tag, a in page.tags if tag == "img"]
    assert len(images) > 50
    assert all(len(a["alt"]) > 5 for a in images)
    heads = [a for tag, a in page.tags if tag == "th"]
    assert all(a.get("scope") in ("row", "col") for a in heads)
    tables = sum(tag == "table" for tag, _ in page.tags)
    assert tables == sum(tag == "caption" for tag, _ in page.tags)
    assert all(a.get("aria-label") for tag, a in page.tags if tag == "input" and a.get("class") == "reveal")


def test_only_what_a_person_called_harmless_is_shown_unveiled(
    run: tuple[Path, Dataset], html: str, policy: Policy
) -> None:
    figures = re.findall(r'<figure class="thumb( veiled)?">(.*?)</figure>', html, re.S)
    said = {s.id[:8]: s for s in run[1].samples(images=False, dropped=True)}
    truth = {row["id"]: row["truth"] for row in final_predictions(run[0])}
    unveiled = {"sample": 0, "file": 0}
    for veiled, body in figures:
        assert bool(veiled) == ('class="reveal"' in body)
        if veiled:
            continue
        if file := re.search(r'alt="test image ([^,]+)', body):
            unveiled["file"] += 1
            assert truth[file[1]] == []
            continue
        unveiled["sample"] += 1
        sample = said[re.search(r'alt="[^"]*?image ([0-9a-f]{8})', body)[1]]  # type: ignore[index]
        assert sample.state.value in ("reviewed", "confirmed_empty")
        assert not any(c.category for c in sample.claims)
    assert 0 < sum(unveiled.values()) < len(figures)
    assert all(unveiled.values())


def final_predictions(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "files" / "final" / "predictions.jsonl").read_text().splitlines()]


def test_the_pictures_that_changed_sides_agree_with_the_measure(
    run: tuple[Path, Dataset], summary: dict[str, Any]
) -> None:
    rows = final_predictions(run[0])
    unsafe = np.array([bool(set(row["truth"]) - {"text_area"}) for row in rows])
    scores = np.array([max((b[4] for b in row["boxes"] if b[5] != "text_area"), default=0.0) for row in rows])
    cases = summary["cases"]
    assert cases["caught"] > 0
    wrong = cases["lost"] + cases["missed"]
    assert 1 - wrong / unsafe.sum() == pytest.approx(recall_at_fpr(scores, unsafe, 0.05))
    assert cases["false_alarms"] <= 0.05 * (~unsafe).sum()


def test_two_models_are_held_against_each_other_and_against_calling_everything_unsafe(
    html: str, page: Page, summary: dict[str, Any]
) -> None:
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", html)).replace("\u202f", " ")
    assert "Final, beside baseline: better, by 42.1 to 51.9 points of recall." in words
    assert "21 of 60 images are right only by final and 2 only by baseline (McNemar's exact test: p = 6.6e-05)" in words
    assert "Evaluations of this dataset have opened them 3 times by now" in words
    keys = {attributes["data-key"] for attributes, _ in page.numbers}
    f1 = "final.per_category.knife.always_unsafe.f1"
    assert {"final.always_unsafe.f1", f1, "final.per_severity.high.always_unsafe.f1"} <= keys
    assert "final.per_category.knife.average_precision.mean" in keys, "in the legend of precision by recall"
    assert {"severities", "confusion"} <= {*page.ids}
    matrix = re.search(r"<caption>Boxes, by what is there.*?</table>", html, re.S)
    assert matrix is not None
    counts = [c for row in summary["final"]["confusion"].values() for c in row.values()]
    assert len(re.findall(r"<data", matrix[0])) == len(counts) > 5


def test_the_largest_confusions_are_cut_out_of_their_images(run: tuple[Path, Dataset], policy: Policy) -> None:
    cases = read_cases(run[0], json.loads((run[0] / "summary.json").read_text()), policy)
    assert cases is not None
    [(pair, crops), *_] = cases.confused.items()
    assert len(crops) == max(map(len, cases.confused.values()))
    assert pair[0] != pair[1]
    rows = confused_rows(cases, Album(run[1], policy))
    assert rows[0].title == f"{pair[0] or 'nothing'}, seen as {pair[1] or 'nothing'}"
    assert min(max(p.size_wh) for row in rows for p in row.pictures) < 96, "a part of an image"
    truth = {row["id"]: row["truth"] for row in final_predictions(run[0])}
    for row in rows:
        for picture in row.pictures:
            file = re.search(r"test image ([^,]+)", picture.alt)[1]  # type: ignore[index]
            assert picture.veiled == bool(truth[file])


def test_a_thousand_categories_make_a_page_that_can_be_read(policy: Policy, tmp_path: Path) -> None:
    names = [f"thing {i}" for i in range(1000)]
    one = {
        "recall_at_fpr05": 0.5,
        "f1": 0.5,
        "average_precision": 0.5,
        "pr_curve": [[0.5, 1.0], [1.0, 0.4]],
        "always_unsafe": {"f1": 0.1},
    }
    each = {name: {**one, "average_precision": {"mean": i / 1000, "ci95": [0, 1]}} for i, name in enumerate(names)}
    facts = {**one, "f1": {"mean": 0.5, "ci95": [0.4, 0.6]}, "per_category": each}
    facts["confusion"] = {name: {name: 5, names[i - 1]: i} for i, name in enumerate(names)}
    summary = {"recipe": "r", "run": "x", "steps": {}, "final": facts, "seconds": {}, "peak_rss_mb": {}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    text = write_report(tmp_path, Dataset(tmp_path / "dataset"), policy).read_text()
    assert len(text) < 1_000_000
    assert "The 40 of 1000 that the last system does worst at" in text
    assert "the 8 worst of 1000 categories" in text
    assert "The 20 most frequent of 1000 confusions" in text
    assert "Thing 999" in text


def test_without_a_baseline_only_mistakes_are_shown(run: tuple[Path, Dataset], policy: Policy) -> None:
    loaded = json.loads((run[0] / "summary.json").read_text())
    del loaded["steps"]["evaluate.baseline"]
    alone = read_cases(run[0], loaded, policy)
    both = read_cases(run[0], json.loads((run[0] / "summary.json").read_text()), policy)
    assert alone is not None
    assert both is not None
    assert alone.counts()["caught"] == alone.counts()["lost"] == 0
    assert alone.counts()["missed"] == both.counts()["missed"] + both.counts()["lost"]


def test_pictures_of_an_absent_test_folder_are_said_to_be_absent(run: tuple[Path, Dataset], policy: Policy) -> None:
    (run[0] / "sealed").rename(run[0] / "elsewhere")
    try:
        assert "the test folder of the recipe is not here" in write_report(*run, policy).read_text()
    finally:
        (run[0] / "elsewhere").rename(run[0] / "sealed")
        write_report(*run, policy)


def test_nothing_that_was_left_out_disappears(run: tuple[Path, Dataset], summary: dict[str, Any]) -> None:
    dropped = [s for s in run[1].samples(images=False, dropped=True) if s.drops]
    counted = sum(sum(reasons.values()) for reasons in summary["dataset"]["left_out_by_reason"].values())
    assert counted == len(dropped) == summary["dataset"]["left_out"] > 0
    assert summary["dataset"]["failed_by_error"]["mine"] == {
        "damaged image: image file is truncated": 3,
        "not an image of a known format": 1,
    }


def test_counts_of_the_dataset_are_those_of_the_dataset(run: tuple[Path, Dataset], summary: dict[str, Any]) -> None:
    found = summary["dataset"]
    assert found["samples"] == run[1].count() == sum(found["by_state"].values()) == sum(found["by_split"].values())
    assert found["by_category"]["knife"] == run[1].count("array_has(categories, 'knife')")
    assert found["versions"][-1]["tags"] == ["first-loop"]


def test_writing_the_report_again_changes_nothing(run: tuple[Path, Dataset], html: str, policy: Policy) -> None:
    write_report(*run, policy)
    assert (run[0] / "report.html").read_text() == html


def test_a_listed_image_is_never_rendered(tmp_path: Path, policy: Policy) -> None:
    from noise import noise_samples

    from tilth.engine.work import Work
    from tilth.events import Events

    data = Dataset(tmp_path / "d")
    work = Work(name="import", dataset=data, policy=policy, folder=tmp_path, events=Events())
    work.add("a", noise_samples(2))
    first, other = next(data.ids())
    from tilth.data.table import result_row
    from tilth.samples import Result

    table = data.table("hash-1")
    table.append([result_row(first, Result(dropped="on the hash list 'blocked'; quarantined"), "2026-11-20T00:00:00Z")])
    data.attach("hash", table, "hash", "2026-11-20T00:00:00Z")
    assert [p.alt[6:14] for p in Album(data, policy).pictures([Wanted(id=first), Wanted(id=other)])] == [other[:8]]


@pytest.mark.parametrize(
    ("after", "verb"), [(0.6, "rose from 31\u202f% to 60"), (0.2, "fell from 31\u202f% to 20"), (0.312, "stayed at 31")]
)
def test_the_headline_admits_what_was_lost(after: float, verb: str) -> None:
    told = {"recall_at_fpr05": {"mean": after, "ci95": [after - 0.05, after + 0.05]}}
    before = {"recall_at_fpr05": {"mean": 0.312, "ci95": [0.29, 0.33]}}
    numbers = Numbers({"baseline": before, "final": told, "human_actions": 0})
    said = re.sub(r"<[^>]+>", "", headline(numbers))
    assert said == f"Recall at 5\u202f% false positives {verb}\u202f%."
    note = certainty(numbers)
    assert note is not None
    assert (note.tone == "good") == (after == 0.6)
    assert ("chance" in str(note.text)) == (after == 0.312)


@pytest.mark.parametrize(
    "missing",
    [("baseline", "random_same_effort"), ("random_same_effort",), ("baseline", "random_same_effort", "final")],
)
def test_a_shorter_recipe_gets_a_shorter_page(
    run: tuple[Path, Dataset], tmp_path: Path, policy: Policy, missing: tuple[str, ...]
) -> None:
    summary = json.loads((run[0] / "summary.json").read_text())
    kept = ("import", "quality", "dedup", "split", "final.detector", "package")
    summary = {k: v for k, v in summary.items() if k not in missing} | {"human_actions": 0}
    summary["steps"] = {k: v for k, v in summary["steps"].items() if k in kept}
    if "final" in missing:
        summary["steps"]["evaluate"] = {
            "kind": "Evaluate",
            "seconds": 1.0,
            "models": {},
            "version": 3,
            "facts": {"map50": {"mean": 0.61, "ci95": [0.55, 0.66]}, "n_images": 60},
        }
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    text = write_report(tmp_path, run[1], policy).read_text()
    page = Page(text)
    assert {"results", "dataset", "cost"} <= set(page.ids)
    assert not {"effort", "gate", "stage2", "calibration"} & set(page.ids)
    headline = re.sub(r"<[^>]+>", "", re.search(r"<h1>(.*?)</h1>", text, re.S)[1])  # type: ignore[index]
    assert ("61\u202f%" in headline) == ("final" in missing)


def test_colour_comes_back_when_all_pictures_are_asked_for(html: str, tab: "playwright.Page", tmp_path: Path) -> None:
    def saturation(text: str) -> float:
        tab.set_content(text)
        tab.screenshot(path=tmp_path / "page.png", full_page=True)
        return float(np.asarray(Image.open(tmp_path / "page.png").convert("HSV"), float)[..., 1].mean())

    strips = html[: html.index('<section id="categories"')].replace(
        '<section id="results"', '<section hidden id="results"'
    )
    veiled = saturation(strips)
    shown = saturation(strips.replace('id="show-all"', 'id="show-all" checked'))
    assert shown > veiled + 1


def test_an_empty_dataset_has_a_report_too(tmp_path: Path, policy: Policy) -> None:
    (tmp_path / "summary.json").write_text(
        json.dumps({"recipe": "r", "run": "x", "steps": {}, "seconds": {}, "peak_rss_mb": {}})
    )
    text = write_report(tmp_path, Dataset(tmp_path / "dataset"), policy).read_text()
    assert "nothing measured yet" in text


def test_a_hostile_name_stays_text(run: tuple[Path, Dataset], tmp_path: Path, policy: Policy) -> None:
    summary = json.loads((run[0] / "summary.json").read_text())
    summary["recipe"] = "<script>alert(1)</script>"
    summary["steps"]["mine"]["facts"]["<img src=x>"] = "<b>bold</b>"
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    text = write_report(tmp_path, run[1], policy).read_text()
    assert "<script" not in text
    assert "<img src=x>" not in text
    assert "<b>bold" not in text


def test_a_missing_summary_is_said_plainly(tmp_path: Path, policy: Policy) -> None:
    with pytest.raises(InputError, match=r"summary\.json"):
        write_report(tmp_path, Dataset(tmp_path / "dataset"), policy)


def test_a_chart_keeps_its_lines_between_its_axes() -> None:
    points = [(0.0, 0.2), (0.1, 0.9), (0.3, 1.4)]  # the last lies beyond the axis
    drawn = str(
        lines([Line(name="<b>", css="c-1", points=points)], "A title", x=("rate", 0.2, ".0%"), y=("recall", 1.0, ".0%"))
    )
    [path] = re.findall(r'points="([^"]*)"', drawn)
    assert [tuple(map(float, pair.split(","))) for pair in path.split()] == [(52.0, 155.2), (196.0, 26.4)]
    assert "<b>" not in drawn.replace("<b></b>", "")
    assert {"0%", "5%", "20%", "100%"} <= {*re.findall(r">(\d+%)<", drawn)}
