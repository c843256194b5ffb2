"""The gallery: pages to look through a dataset in a real browser, careful with what it shows."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from noise import noise_image, noise_samples
from PIL import Image
from places import POLICY
from report_run import build_run

from tilth.claims import Claim
from tilth.data.dataset import Dataset
from tilth.data.table import result_row
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.events import Events
from tilth.images import encode_png, image_id
from tilth.mining.copies.listed import hashes_of
from tilth.pipeline.gallery.page import Gallery
from tilth.pipeline.gallery.records import grouped
from tilth.pipeline.report.pictures import is_known_safe, is_listed
from tilth.policy import Policy, load_policy
from tilth.samples import NewSample, Result
from tilth.starter.world.scene import Spec, render

if TYPE_CHECKING:
    from playwright.sync_api import Page

NOW = "2026-11-20T00:00:00Z"


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    whole = [sys.executable, "-m", "tilth.pipeline.cli.main", "gallery", *arguments]
    return subprocess.run(whole, capture_output=True, text=True, check=False)


def longer_side(path: Path) -> int:
    with Image.open(path) as image:
        return max(image.size)


def coloured(path: Path) -> float:
    """Return which part of a picture is neither grey nor pale."""
    with Image.open(path) as image:
        return float((np.asarray(image.convert("HSV"))[..., 1] > 60).mean())


def embedded(page: Path, kind: str) -> Any:
    found = re.findall(rf'<script type="application/json" class="{kind}">(.*?)</script>', page.read_text(), re.S)
    parts = [json.loads(text) for text in found]
    return [row for part in parts for row in part] if kind == "records" else parts[0]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A run's dataset, where one image has boxes that a clean-up took and a fused one."""
    made = build_run(tmp_path_factory.mktemp("runs") / "first", load_policy(POLICY))
    chosen = next(s for s in made.samples("labels > 0", images=False))
    removed = {
        "category": "pill",
        "score": 0.31,
        "box_xyxy": [5, 5, 40, 40],
        "reason": "same thing twice",
        "by": "pill",
    }
    bad = [
        {"category": "pill", "score": float("nan"), "box_xyxy": [1, float("inf"), "x", 3], "reason": "foul \ud800"},
        "no row",
    ]
    fused = Claim(
        category="knife", box_xyxy=(8, 8, 50, 50), score=0.77, source="model:fusion@1", evidence={"of": [["a"], ["b"]]}
    )
    copies = [s.id for s in made.samples(images=False, dropped=True) if not is_listed(s)][:5]
    for name, columns in (
        ("dedup", [{"dedup.group": copies[0][:12]}] * 3),
        ("doubt", [{"label_errors.category": "knife", "label_errors.says": "missing", "label_errors.score": 0.1}]),
    ):
        table = made.table(f"{name}-x")
        table.append([result_row(i, Result(columns=c), NOW) for i, c in zip(copies, columns, strict=False)])
        made.attach(name, table, name, NOW)
    table = made.table("ground-x")
    table.append([result_row(chosen.id, Result(claims=(fused,), columns={"ground.removed": [removed, *bad]}), NOW)])
    made.attach("ground", table, "ground", NOW)
    return made


@pytest.fixture(scope="module")
def folder(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "gallery"
    Gallery(dataset=data, policy=load_policy(POLICY)).write(out)
    return out


def test_every_sample_is_there_with_all_that_is_said_of_it(data: Dataset, folder: Path) -> None:
    rows = {row["i"]: row for row in embedded(folder / "index.html", "records")}
    meta = embedded(folder / "index.html", "meta")
    samples = [s for s in data.samples(images=False, dropped=True) if not is_listed(s)]
    assert set(rows) == {s.id for s in samples}
    for sample in samples:
        row = rows[sample.id]
        assert (row["w"], row["h"], row["s"], row["t"]) == (*sample.size_wh, sample.state.value, sample.split)
        assert [tuple(x) for x in row["x"]] == [(step, why[:160]) for step, why in sample.drops]
        counted = {(meta["categories"][c[0]], meta["sources"][c[1]]) for c in row["c"] if c[4]}
        assert counted == {(label.category, grouped(label.source)) for label in sample.truth.labels}
        assert {meta["sources"][c[1]] for c in row["c"]} == {grouped(c.source) for c in sample.claims}
        assert (folder / row["p"]).is_file()
    taken = [row["r"] for row in rows.values() if row["r"]]
    pill = meta["categories"].index("pill")
    assert taken == [
        [
            [pill, 0.31, [5.0, 5.0, 40.0, 40.0], "same thing twice, for pill", "ground"],
            [pill, 0.0, None, "foul \ud800", "ground"],
        ]
    ]


def test_pictures_are_small_and_what_may_be_unsafe_is_veiled(data: Dataset, folder: Path, policy: Policy) -> None:
    rows = embedded(folder / "index.html", "records")
    samples = {s.id: s for s in data.samples(images=False, dropped=True)}
    assert (
        {row["i"] for row in rows if not row["v"]}
        == {s.id for s in samples.values() if is_known_safe(s, policy) and not is_listed(s)}
        != set()
    )
    assert all(longer_side(path) <= 640 for path in (folder / "pictures").rglob("*.jpg"))


def test_nothing_is_veiled_where_the_policy_knows_nothing_harmful(
    data: Dataset, policy: Policy, tmp_path: Path
) -> None:
    low = tuple(c.model_copy(update={"severity": "low"}) for c in policy.categories if c.evidence == "picture")
    harmless = Policy(policy="cells", version=1, categories=low)
    for rules, veiled in ((policy, True), (harmless, False)):
        facts = Gallery(dataset=data, policy=rules, side=32).write(tmp_path / "g")
        assert (facts["veiled"] > 0) is veiled  # type: ignore[operator]
    boxes = next(row["c"] for row in embedded(tmp_path / "g" / "index.html", "records") if row["c"])
    assert len(embedded(tmp_path / "g" / "index.html", "meta")["colours"]) > boxes[0][0]


def test_without_a_policy_all_is_veiled(data: Dataset, tmp_path: Path) -> None:
    facts = Gallery(dataset=data, side=32).write(tmp_path / "g")
    assert facts["veiled"] == facts["shown"] > 0
    assert {row["v"] for row in embedded(tmp_path / "g" / "index.html", "records")} == {1}
    assert {longer_side(path) for path in (tmp_path / "g").rglob("*.jpg")} == {32}


def test_the_page_needs_nothing_from_outside_and_lets_no_other_script_run(folder: Path) -> None:
    shell = re.sub(r'<script type="application/json".*?</script>', "", (folder / "index.html").read_text(), flags=re.S)
    assert not re.search(r"https?://|url\(|@import|src=|href=\"[^#]", shell)
    assert "default-src 'none'" in shell
    assert "unsafe" not in re.search(r'Content-Security-Policy" content="([^"]*)', shell)[1]  # type: ignore[index]


def listed(tmp_path: Path, policy: Policy) -> tuple[Dataset, str]:
    """Three images: one was dropped for a hash list, one is on a list that has grown since, one is left."""
    opened = Dataset(tmp_path / "d")
    work = Work(name="import", dataset=opened, policy=policy, folder=tmp_path, events=Events())
    work.add("a", noise_samples(3))
    before, grown, left = opened.samples()
    table = opened.table("hash-1")
    table.append([result_row(before.id, Result(dropped="on the hash list 'blocked'; quarantined"), NOW)])
    opened.attach("hash", table, "hash", NOW)
    pixels = grown.pixels().tobytes()
    opened.guard = lambda image: "list b" if image.tobytes() == pixels else None
    return opened, left.id


def test_a_listed_image_is_never_rendered(tmp_path: Path, policy: Policy) -> None:
    opened, left = listed(tmp_path, policy)
    out = tmp_path / "g"
    facts = Gallery(dataset=opened, policy=policy).write(out)
    assert (facts["shown"], facts["on_a_hash_list"]) == (1, 2)
    assert [path.stem for path in out.rglob("*.jpg")] == [left]
    assert [row["i"] for row in embedded(out / "index.html", "records")] == [left]
    assert Gallery(dataset=opened, policy=policy).sheet(tmp_path / "sheet.png")["shown"] == 1
    Gallery(dataset=opened, policy=policy).write(tmp_path / "one.html")
    assert len(embedded(tmp_path / "one.html", "records")) == 1


def test_the_command_asks_the_hash_lists_of_the_policy(tmp_path: Path, policy: Policy) -> None:
    things = (("book", "red", ""), ("cup", "blue", ""))
    spec = Spec(things=things, surface="brick", style="photo")
    images = [render(spec, np.random.default_rng(seed), side=320).image for seed in (1, 2)]
    work = Work(name="import", dataset=Dataset(tmp_path / "d"), policy=policy, folder=tmp_path, events=Events())
    work.add("a", [NewSample(data=encode_png(image), origin={}) for image in images])
    (tmp_path / "blocked.txt").write_text(f"pdq {hashes_of(images[0][:, ::-1])[0]}\n")
    (tmp_path / "policy.yaml").write_text(POLICY.read_text() + "\nhash_lists: [blocked.txt]\n")
    told = command(str(tmp_path / "d"), "--policy", str(tmp_path / "policy.yaml"), "--out", str(tmp_path / "g"))
    facts = json.loads(told.stdout)
    assert (facts["shown"], facts["on_a_hash_list"]) == (1, 1)
    assert [path.stem for path in (tmp_path / "g").rglob("*.jpg")] == [image_id(images[1])]


def test_a_gallery_is_replaced_and_nothing_else_is(data: Dataset, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "g"
    shutil.copytree(folder, out)
    (out / "pictures" / "stale.jpg").write_bytes(b"")
    Gallery(dataset=data, side=32).write(out)
    assert not (out / "pictures" / "stale.jpg").exists(), "a picture that has left the set must not stay behind"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not a gallery and would be overwritten"):
        Gallery(dataset=data).write(tmp_path / "mine")
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".partial")] == []


def test_one_file_for_a_small_set_and_a_word_for_a_large_one(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "one.html"
    told = command(str(data.root), "--out", str(out), "--side", "48")
    assert json.loads(told.stdout)["page"] == str(out)
    assert all(row["p"].startswith("data:image/jpeg;base64,") for row in embedded(out, "records"))
    assert [p.name for p in tmp_path.iterdir()] == ["one.html"]
    monkeypatch.setattr("tilth.pipeline.gallery.page.MOST_IN_ONE_FILE", 3)
    with pytest.raises(InputError, match=r"one file holds at most 3 samples, .* name a folder: --out .*one$"):
        Gallery(dataset=data).write(out)


def test_a_contact_sheet_is_grey_where_it_must_be(data: Dataset, policy: Policy, tmp_path: Path) -> None:
    shown = Gallery(dataset=data, policy=policy)
    facts = shown.sheet(tmp_path / "veiled.png")
    assert (facts["shown"], bool(facts["veiled"])) == (48, True)
    assert shown.sheet(tmp_path / "open.png", unveiled=True) == {"shown": 48, "veiled": 0}
    assert coloured(tmp_path / "veiled.png") < 0.5 * coloured(tmp_path / "open.png")
    with pytest.raises(InputError, match="no image to put on a sheet"):
        Gallery(dataset=Dataset(tmp_path / "empty")).sheet(tmp_path / "none.png")


# in the browser


@pytest.fixture
def page(tab: "Page", folder: Path) -> "Iterator[Page]":
    tab.goto(f"file://{folder}/index.html")
    yield tab
    assert problems(tab) == []


def problems(page: "Page") -> list[str]:
    told = [message.text for message in page.console_messages() if message.type == "error"]
    return [str(error) for error in page.page_errors()] + told


def count(page: "Page") -> int:
    return int(page.locator("#count").inner_text().split()[0].replace(",", ""))


def choose(page: "Page", name: str, value: str = "") -> None:
    """Set a filter; one without a value is ticked."""
    field = page.locator(f"[name={name}]")
    if not value:
        field.check()
    elif field.evaluate("field => field.localName") == "select":
        field.select_option(value)
    else:
        field.fill(value)


def press(page: "Page", *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def picture_id(page: "Page") -> str:
    """Return which picture the large view shows."""
    return page.locator(".facts dd").last.inner_text()


def test_filters_show_what_the_dataset_holds(page: "Page", data: Dataset) -> None:
    kept = [s for s in data.samples(images=False) if not is_listed(s)]
    assert count(page) == len(kept)
    page.locator(".chip", has_text="knife").click()
    knives = [s for s in kept if any(c.category == "knife" for c in s.claims)]
    assert count(page) == len(knives) > 0
    choose(page, "low", "0.9")
    sure = [s for s in knives if any(c.category == "knife" and c.score >= 0.9 for c in s.claims)]
    assert count(page) == len(sure) < len(knives)
    page.get_by_text("Clear").click()
    for name, value, expected in (
        ("state", "reviewed", [s for s in kept if s.state.value == "reviewed"]),
        ("split", "train", [s for s in kept if s.split == "train"]),
        ("kept", "out", [s for s in data.samples(images=False, dropped=True) if s.drops and not is_listed(s)]),
        ("text", kept[5].id[:9].upper(), [kept[5]]),
        ("cleaned", "", [s for s in kept if s.columns.get("ground.removed")]),
    ):
        choose(page, name, value)
        assert count(page) == len(expected) > 0, name
        page.get_by_text("Clear").click()
        assert count(page) == len(kept)
    choose(page, "order", "copies")
    assert count(page) == 3, "near-duplicates side by side, those that were left out, too"
    page.get_by_text("Clear").click()
    choose(page, "doubted")
    assert count(page) == len([s for s in kept if s.columns.get("label_errors.says")]) <= 1
    page.get_by_text("Clear").click()
    choose(page, "disagree")
    assert 0 < count(page) < len(kept)
    assert page.url.endswith("#disagree=true"), "a view can be sent to somebody"


def test_a_veiled_picture_is_shown_at_the_first_click_and_opened_at_the_second(page: "Page", tmp_path: Path) -> None:
    def colour_of_page() -> float:
        page.evaluate(
            "Promise.all([...document.images].filter((i) => i.checkVisibility() && i.complete).map((i) => i.decode()))"
        )
        page.screenshot(path=tmp_path / "page.png", animations="disabled")
        return coloured(tmp_path / "page.png")

    veiled = colour_of_page()
    id_ = page.locator(".tile.veiled").first.get_attribute("data-id")
    this = page.locator(f"[data-id='{id_}']")
    style = "image => getComputedStyle(image).filter"
    assert str(this.get_attribute("aria-label")).startswith("Show blurred image")
    assert "grayscale(1)" in this.locator("img").evaluate(style)
    this.click()
    assert this.locator("img").evaluate(style) == "none"
    assert page.locator("#large").is_hidden()
    this.click()
    assert page.locator("#large").is_visible()
    assert picture_id(page) == id_
    press(page, "Escape")
    page.locator(f"[data-id='{id_}']:focus").wait_for()  # the focus goes back to where it was
    press(page, "b")
    assert page.locator(".tile.veiled").count() == 0
    assert colour_of_page() > 2 * veiled
    press(page, "b")
    assert page.locator(".tile.veiled").count() > 0


def test_the_large_view_toggles_sources_and_what_was_cleaned_away(page: "Page") -> None:
    choose(page, "cleaned")
    press(page, "j", "b", "Enter")
    assert page.locator("#large").is_visible()
    boxes = page.locator("#stage .box")
    before = boxes.all_inner_texts()
    assert any("knife 0.77" in box for box in before)
    assert "fused from 2 boxes" in page.locator("#said").inner_text()
    press(page, "c")
    assert page.locator("#stage .box.gone").all_inner_texts() == ["same thing twice, for pill"]
    press(page, "c")
    assert boxes.all_inner_texts() == before
    source = page.locator("[data-layer='model:fusion@1']")
    source.uncheck()
    assert boxes.all_inner_texts() == [box for box in before if "0.77" not in box]
    assert source.evaluate("tick => tick === document.activeElement")


SEARCH_AT_ONCE = """async () => {  // as fast as no test's keys are, while the event that the large view closed is on its way
  const key = (key) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
  document.getElementById("large").close();
  key("/");
  await new Promise((done) => setTimeout(done, 100));
  return document.activeElement.name;
}"""


def test_the_keyboard_is_enough(page: "Page") -> None:
    at = "Number(document.activeElement.dataset.n)"
    for key, place in (("j", 0), ("ArrowRight", 1), ("j", 2), ("k", 1), ("ArrowLeft", 0), ("ArrowLeft", 0)):
        press(page, key)
        assert page.evaluate(at) == place
    press(page, "b", "Enter")
    first = picture_id(page)
    press(page, "ArrowRight")
    assert picture_id(page) != first
    press(page, "k")
    assert picture_id(page) == first
    press(page, "Escape")
    page.locator(".tile:focus").wait_for()
    press(page, "Enter")
    assert page.evaluate(SEARCH_AT_ONCE) == "text"
    press(page, "b")  # a letter of an id, not the command
    assert page.locator(":focus").input_value() == "b"
    assert page.locator("#show-all").is_checked()
    press(page, "Escape")
    assert page.evaluate("document.activeElement.tagName") == "BODY"


CONTRAST = """(() => {
  const linear = (v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = (c) => {
    const [r, g, b] = c.match(/[\\d.]+/g).map((v) => linear(v / 255)); return .2126 * r + .7152 * g + .0722 * b;
  };
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor; if (!/, 0\\)|color\\(/.test(c)) return c;
    }
  };
  return Math.min(...[...document.querySelectorAll('h1, .meta, .chip, .about b, .about small, label, #count, .keys')].map((e) => {
    const a = light(getComputedStyle(e).color), b = light(behind(e)); return (Math.max(a, b) + .05) / (Math.min(a, b) + .05); }));
})()"""


def test_it_can_be_read_by_day_and_by_night_and_by_those_who_cannot_see(page: "Page") -> None:
    assert page.evaluate(CONTRAST) >= 4.5
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 21, 18)"
    assert page.evaluate(CONTRAST) >= 4.5
    assert page.evaluate("[...document.images].every((i) => i.alt.length > 10)")
    controls = page.locator("button, input, select")
    assert controls.evaluate_all("all => all.every((e) => e.ariaLabel || e.textContent || e.labels?.length)")
    assert page.get_by_alt_text("blurred").count() > 0


def test_hostile_names_stay_text(tab: "Page", tmp_path: Path, policy: Policy) -> None:
    foul = "</script><script>document.title='taken'</script><img src=x onerror=document.title='taken'>"
    opened = Dataset(tmp_path / "d")
    work = Work(name="import", dataset=opened, policy=policy, folder=tmp_path, events=Events())
    claims = (Claim(category=foul, box_xyxy=(1, 1, 9, 9), score=0.5, source=f"import:{foul}"),)
    work.add("a", [NewSample(data=noise_image(1), origin={"source": foul}, claims=claims)])
    Gallery(dataset=opened).write(tmp_path / "g.html")
    tab.goto(f"file://{tmp_path}/g.html")
    press(tab, "b")
    tab.locator(".tile").click()
    assert foul in str(tab.locator("#said").text_content())
    assert tab.title() == "d · Tilth gallery"
    assert tab.locator("img[src=x]").count() == 0
    assert problems(tab) == []


def test_many_pictures_are_drawn_as_they_come_into_view(tab: "Page", folder: Path, tmp_path: Path) -> None:
    big = tmp_path / "big"
    shutil.copytree(folder, big)
    text = (big / "index.html").read_text()
    block = re.search(r'<script type="application/json" class="records">.*?</script>\n', text, re.S)[0]  # type: ignore[index]
    (big / "index.html").write_text(text.replace(block, block * 200, 1))
    tab.goto(f"file://{big}/index.html")
    assert tab.evaluate("records.length") > 3_000
    drawn = tab.locator(".tile").count()
    assert drawn < 400
    assert tab.evaluate("(() => { const t = performance.now(); filter(); return performance.now() - t; })()") < 2_000
    tab.locator("#more").scroll_into_view_if_needed()
    tab.locator(".tile").nth(drawn).wait_for()


def test_a_dataset_that_is_not_there_is_said_to_be_absent(tmp_path: Path) -> None:
    done = command(str(tmp_path))
    assert done.returncode == 2
    assert "no dataset here" in done.stderr
